import os
import signal

from variata import signals
from variata.run.csv import CSV


def test_csv_grows_columns_and_forgets_what_is_done_again(tmp_path):
    path = tmp_path / "metrics.csv"
    log = CSV(path)
    log.log_metrics({"a": 1.0}, step=10)
    log.log_metrics({"a": 2.0}, step=20)
    log.log_metrics({"b": 0.123456789}, step=20)
    log.log_metrics({"a": 3.0, "b": 4.0}, step=30)
    assert path.read_text().splitlines() == ["step,a,b", "10,1,", "20,2,", "20,,0.12345679", "30,3,4"]
    again = CSV(path, until=20)
    again.log_metrics({"b": 5.0}, step=30)
    assert [row["step"] for row in again.rows()] == ["10", "20", "20", "30"]
    assert again.rows()[-1] == {"step": "30", "a": "", "b": "5"}


def test_a_test_that_is_done_again_is_recorded_once(tmp_path):
    for until in (None, 20):
        log = CSV(tmp_path / "metrics.csv", until)
        if until is None:
            log.log_metrics({"val/elbo": -2.0}, step=20)
        log.log_metrics({"test/elbo": -1.0}, step=20)
    assert [(row["val/elbo"], row["test/elbo"]) for row in log.rows()] == [("-2", ""), ("", "-1")]


def test_signals_that_come_together_are_one(monkeypatch):
    """`timeout` sends two: to the command, and to its group."""
    heard = []
    monkeypatch.setattr(signals, "_heard", [])
    with signals.signals_to(heard.append):
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGTERM)
        assert heard == [signal.SIGTERM]
        signals._heard[-1] -= signals.ECHO  # later
        os.kill(os.getpid(), signal.SIGINT)
        assert heard == [signal.SIGTERM, signal.SIGINT]
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
