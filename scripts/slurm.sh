#!/usr/bin/env bash
# Run a command on a SLURM cluster of two nodes made of this machine, and take the cluster down again.
# Usage: scripts/slurm.sh python train.py -m seed=1,2 hydra/launcher=submitit_slurm ...
# Needs slurmctld, slurmd, slurm-client and munge, but neither root nor a line in /etc: all it writes is in a folder of
# its own. Answers 77 where it cannot start.
set -euo pipefail
umask 022

refuse() {
  echo "slurm.sh: $*" >&2
  exit 77
}

(($#)) || refuse "give a command to run, as in: scripts/slurm.sh sinfo"
PATH="$PATH:/usr/sbin:/sbin"
for program in munged mungekey slurmctld slurmd scontrol srun; do
  command -v "$program" >/dev/null || refuse "$program is missing. On Debian: apt-get install slurmctld slurmd slurm-client munge"
done

folder="$(mktemp -d /tmp/slurm.XXXXXX)" # short: the path of a socket has at most 107 characters
chmod 755 "$folder"
export SLURM_CONF="$folder/slurm.conf"
export MASTER_ADDR=127.0.0.1 # the nodes' names mean nothing to the system's resolver
me="$(id -un)"

ended() { # wait for the process whose id is in a file, if there is one, and after ten seconds end it
  for _ in $(seq 100); do
    pgrep --pidfile "$1" >/dev/null 2>&1 || return 0
    sleep 0.1
  done
  pkill -KILL --pidfile "$1" || true
}

stop() {
  trap - EXIT
  trap '' INT TERM
  if [[ -e "$folder/slurmctld.pid" ]]; then
    scancel --quiet --user="$me" || true
    for _ in $(seq 40); do # twice KillWait
      [[ -n "$(squeue --noheader)" ]] || break
      sleep 0.5
    done
    scontrol shutdown || true
  fi
  for daemon in slurmd.n1 slurmd.n2 slurmctld; do
    ended "$folder/$daemon.pid"
  done
  munged --socket="$folder/munge.socket" --stop >/dev/null 2>&1 || true
  rm -rf "$folder"
}
trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

free_port() { # the first of three that nobody listens on
  local port
  while port=$((20000 + RANDOM % 10000)); do
    for offset in 0 1 2; do
      (: <"/dev/tcp/127.0.0.1/$((port + offset))") 2>/dev/null && continue 2
    done
    echo "$port" && return
  done
}

port="$(free_port)" host="$(hostname -s)"
cat >"$SLURM_CONF" <<CONF
ClusterName=variata
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$port
SlurmUser=$me
SlurmdUser=$me
AuthType=auth/munge
AuthInfo=socket=$folder/munge.socket,cred_expire=5
CredType=cred/munge
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/%n
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.%n.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.%n.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
JobCompType=jobcomp/none
MpiDefault=none
JobRequeue=1
KillWait=10
NodeName=n1 NodeHostname=$host NodeAddr=127.0.0.1 Port=$((port + 1)) CPUs=2 RealMemory=8000
NodeName=n2 NodeHostname=$host NodeAddr=127.0.0.1 Port=$((port + 2)) CPUs=2 RealMemory=8000
PartitionName=debug Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
CONF
mkdir "$folder/state"

start() {
  mungekey --create --keyfile="$folder/munge.key" &&
    munged --socket="$folder/munge.socket" --key-file="$folder/munge.key" --pid-file="$folder/munged.pid" \
      --log-file="$folder/munged.log" --seed-file="$folder/munged.seed" &&
    slurmctld && slurmd -N n1 && slurmd -N n2 || return
  for _ in $(seq 60); do
    [[ "$(sinfo --noheader --Node --states=idle --format=%T 2>/dev/null)" == $'idle\nidle' ]] && return
    sleep 0.5
  done
  return 1
}
start >"$folder/start.log" 2>&1 || {
  tail -n 5 "$folder"/*.log >&2
  refuse "the daemons did not start; the ends of their logs are above"
}

code=0
"$@" || code=$?
exit "$code"
