"""Sweep files name a config that is there and keys that its parser knows, with values it takes."""

from pathlib import Path

import pytest
import yaml

import train

ROOT = Path(__file__).parents[1]
SWEEPS = sorted((ROOT / "configs" / "sweeps").glob("*.yaml"))


def values_of(parameter: dict) -> list:
    """Its extremes, or all of its values."""
    if "distribution" in parameter:
        assert parameter["distribution"] == "log_uniform_values"
        assert 0 < parameter["min"] < parameter["max"]
        return [parameter["min"], parameter["max"]]
    return parameter.get("values") or [parameter["value"]]


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_the_command_line_takes_every_value(path, monkeypatch, capsys) -> None:
    """As W&B's agent calls it: `${args}` is ``--key=value`` for each parameter."""
    monkeypatch.chdir(ROOT)
    sweep = yaml.safe_load(path.read_text(encoding="utf-8"))
    _, python, program, *flags, args = sweep["command"]
    assert (python, program, args) == ("python", "${program}", "${args}")
    assert (ROOT / sweep["program"]).is_file()
    values = {key: values_of(parameter) for key, parameter in sweep["parameters"].items()}
    assert {"model.inner_lr", "model.inner_steps", "model.meta_lr"} <= set(values)
    for number in range(max(map(len, values.values()))):
        chosen = {key: some[min(number, len(some) - 1)] for key, some in values.items()}
        with pytest.raises(SystemExit) as stop:
            train.main([*flags, *(f"--{k}={v}" for k, v in chosen.items()), "--print_config"])
        assert stop.value.code == 0
        config = yaml.safe_load(capsys.readouterr().out)
        for key, value in chosen.items():
            part, name = key.split(".")
            assert config[part].get("init_args", config[part])[name] == value
    assert sweep["method"] in ("grid", "random", "bayes")
    monitored = config["trainer"]["callbacks"][0]["init_args"]
    assert monitored["monitor"] == sweep["metric"]["name"]
    assert sweep["metric"]["goal"].startswith(monitored["mode"])
