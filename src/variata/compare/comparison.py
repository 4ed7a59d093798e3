"""Everything a report says, computed once: terminal, Markdown and HTML only write it down."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from variata.compare.behind import Behind, behind
from variata.compare.groups import LISTED, Group, grouped, ranked
from variata.compare.importance import Importance, importance
from variata.compare.keys import column, differing, leading, with_option_names
from variata.compare.metrics import differences, judgement, known
from variata.errors import ConfigError
from variata.formatting import printable, text
from variata.messages import did_you_mean
from variata.metrics import DEFAULT, Metric
from variata.run.reader import Found, LeftOut, Run

COMMIT = 12  # digits of a commit that are shown


@dataclass(frozen=True)
class Comparison:
    """Runs in groups.

    Args:
        runs: All that could be read.
        left_out: Directories that could not.
        keys: They are grouped by.
        within: Keys that tell runs of one group apart.
        followers: Keys that also differ and follow from those.
        groups: The best first.
        metrics: They may be compared by, by name.
        by: The metric they are ranked by.
        ranks: By label; empty where the figures do not compare.
        apart: Why not; empty where they do.
        warnings: That, and what else to bear in mind.
        importance: Of keys for the metric.
    """

    runs: list[Run]
    left_out: list[LeftOut]
    keys: list[str]
    within: list[str]
    followers: list[str]
    groups: list[Group]
    metrics: Mapping[str, Metric]
    by: Metric
    ranks: dict[str, int]
    apart: str
    warnings: list[str]
    importance: Importance | None

    @property
    def best(self) -> Group | None:
        return self.groups[0] if self.groups and self.groups[0].label in self.ranks else None

    def behind(self, group: Group) -> Behind | None:
        """How far a ranked group is behind the best; of the best itself None."""
        if self.best is None or group is self.best or group.label not in self.ranks:
            return None
        return behind(self.best, group, self.by, self.within)


def compare(found: Found, group_by: Sequence[str] = (), by: str | None = None) -> Comparison:
    """Group, judge and rank.

    Raises:
        ConfigError: A key or metric that is not there.
    """
    runs = with_option_names(found.runs)
    differ = differing(runs)
    leaders = leading(differ, runs)
    keys = chosen_keys(group_by, runs) or leaders
    groups = grouped(runs, keys)
    finished = [run for group in groups for run in group.judged]
    metrics = known(runs)
    metric = chosen_metric(by, metrics)
    told, apart = _told(finished, metrics), " ".join(_told(finished, metrics, metric))
    ranks = {} if apart else ranked(groups, metric)
    groups = sorted(groups, key=lambda group: ranks.get(group.label, len(groups) + 1))
    within = [key for key in leaders if key not in keys]
    followers = [key for key in differ if key not in leaders and key not in keys]
    varied = [key for key in leaders if len(set(column(finished, key))) > 1]
    matters = None if apart else importance(finished, varied, metric.name)
    warnings = [*told, *_codes(groups), *_tested(metric, ranks), *_repeats(groups), *_marginal(within)]
    return Comparison(
        runs, found.left_out, keys, within, followers, groups, metrics, metric, ranks, apart, warnings, matters
    )


def chosen_keys(group_by: Sequence[str], runs: Sequence[Run]) -> list[str]:
    """The keys asked for, each once."""
    known = {key for run in runs for key in run.config}
    keys = list(dict.fromkeys(key.removesuffix("._target_") for key in group_by))
    for key in keys:
        if key not in known:
            raise ConfigError(f"--group-by {key} is in no run's config.yaml. {did_you_mean(key, known, 8)}")
    return keys


def chosen_metric(by: str | None, metrics: Mapping[str, Metric]) -> Metric:
    """The metric asked for, or the default."""
    if by is not None and by not in metrics:
        raise ConfigError(f"--by {by} is no metric that is compared. Allowed: {', '.join(metrics)}.")
    return metrics[by or DEFAULT]


def _told(finished: Sequence[Run], metrics: Mapping[str, Metric], metric: Metric | None = None) -> list[str]:
    """Judgements that differ between runs and what they spoil; all, or those that concern a metric."""
    known = {name for name in metrics if any(run.figure(name) is not None for run in finished)}
    told = []
    for name, values in differences(finished, metric).items():
        spoilt = ", ".join(one for one in metrics if one in known and name in metrics[one].alike)
        why = f"{judgement(name).why}, so {spoilt} do not compare"
        told.append(f"{name} differs between runs ({'; '.join(values)}): {why}.")
    return told


def _codes(groups: Sequence[Group]) -> list[str]:
    """That runs were made by different code, which may be what their figures tell of."""
    counts = Counter(code(run) for group in groups for run in group.judged)
    counts.pop(None, None)
    if len(counts) < 2:
        return []
    said = [f"{name} ({n} run{'s' * (n > 1)})" for name, n in counts.most_common(LISTED)]
    listed = ", ".join(said) + (f" and {len(counts) - LISTED} more" if len(counts) > LISTED else "")
    mixed = [group.label for group in groups if len({code(run) for run in group.judged} - {None}) > 1]
    averaged = f" {len(mixed)} group(s) average it as they do seeds, such as {mixed[0]}." if mixed else ""
    dirty = " No commit holds all of what is -dirty." if any(str(c).endswith("-dirty") for c in counts) else ""
    return [f"The code differs between runs, {listed}: so may the figures, for that alone.{averaged}{dirty}"]


def code(run: Run) -> str | None:
    """Version and commit a run was made with, `-dirty` where the code was changed since; None where it does not say."""
    version, (commit, dirty, _) = run.results.get("version"), str(run.results.get("git_sha") or "").partition("-dirty")
    known = [text(version)] if version else []
    return " at ".join([*known, *([printable(commit[:COMMIT] + dirty)] if commit else [])]) or None


def _tested(metric: Metric, ranks: dict[str, int]) -> list[str]:
    if not metric.name.startswith("test/") or len(ranks) < 2:
        return []
    return [
        f"The test images chose the order, by {metric.name}, so they judge the best too kindly: choose --by {DEFAULT} "
        "and report the test figures of what that chose."
    ]


def _repeats(groups: Sequence[Group]) -> list[str]:
    n = sum(len(group.repeats) for group in groups)
    return [f"{n} finished run(s) repeat configuration and seed of a newer one, which counts alone."] if n else []


def _marginal(within: Sequence[str]) -> list[str]:
    if not within:
        return []
    return [
        f"Groups hold runs that differ in {', '.join(within)} too: means and intervals are over these as over seeds."
    ]
