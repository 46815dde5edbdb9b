"""The compose file and the Dockerfile against the code: every command, variable, port and path that they name exists."""

import argparse
import importlib
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import obstore.store
import pytest
import yaml
from sqlalchemy.engine import make_url

from core.settings import Settings

ROOT = Path(__file__).parents[3]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
DOCKERFILE = (ROOT / "Dockerfile").read_text()
SERVICES = COMPOSE["services"]
OURS = {name: service for name, service in SERVICES.items() if "build" in service}
WANTED = {"api", "worker", "beat", "serving", "postgres", "valkey", "minio"}


def test_every_part_is_there():
    assert set(SERVICES) >= WANTED


@pytest.mark.parametrize("name", OURS)
def test_a_command_names_a_module_and_arguments_that_exist(name, monkeypatch):
    command = OURS[name]["command"]
    if command[0] == "lensmith":
        from typer.testing import CliRunner

        from ops.cli import app

        assert CliRunner().invoke(app, [*command[1:], "--help"]).exit_code == 0
        return
    if command[0] == "celery":
        assert command[1:3] == ["-A", "worker.app"]
        assert importlib.import_module("worker.app").app.main == "lensmith"
        assert command[3] in ("beat", "worker")
        return
    assert command[:2] == ["python", "-m"]
    module = importlib.import_module(command[2])
    assert callable(module.main)
    arguments = command[3:]
    if arguments:
        parsed = _parse_with(module, arguments, monkeypatch)
        assert parsed is not None


def _parse_with(module, arguments, monkeypatch):
    """Run the module's own argument parser on what compose says; stop before anything starts."""

    class Parsed(Exception):
        pass

    parse_args = argparse.ArgumentParser.parse_args

    def stop(parser, *_):
        raise Parsed(parse_args(parser, arguments))

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", stop)
    with pytest.raises(Parsed) as parsed:
        module.main()
    return parsed.value.args[0]


@pytest.mark.parametrize("name", OURS)
def test_every_variable_is_one_that_the_code_reads(name):
    known = {f"LENSMITH_{field.upper()}" for field in Settings.model_fields}
    known |= {
        f"AWS_{option}" for option in ("ENDPOINT_URL", "ALLOW_HTTP", "REGION", "ACCESS_KEY_ID", "SECRET_ACCESS_KEY")
    }
    known.add("HF_TOKEN")  # huggingface_hub's
    assert set(OURS[name]["environment"]) <= known


def test_the_urls_name_services_that_are_there_with_schemes_that_we_open():
    environment = OURS["api"]["environment"]
    database = make_url(re.sub(r"\$\{[^}]*\}", "x", environment["LENSMITH_DATABASE_URL"]))
    assert (database.get_backend_name(), database.host, database.username) == ("postgresql", "postgres", "lensmith")
    assert database.database == SERVICES["postgres"]["environment"]["POSTGRES_DB"]
    hosts = [re.match(r"\w+://([\w-]+)", environment[f"LENSMITH_{n}_URL"]).group(1) for n in ("REDIS", "SERVING")]
    assert set(hosts) <= set(SERVICES)
    assert obstore.parse_scheme(environment["LENSMITH_STORAGE_URL"]) == "s3"
    obstore.store.from_url(
        "s3://lensmith/objects", endpoint="http://minio:9000", region="us-east-1", client_options={"allow_http": True}
    )


def test_the_ports_agree():
    environment, command = OURS["api"]["environment"], OURS["serving"]["command"]
    serving_port = command[command.index("--port") + 1]
    assert environment["LENSMITH_SERVING_URL"] == f"http://serving:{serving_port}"
    assert f":{serving_port}/healthz" in OURS["serving"]["healthcheck"]["test"][-1]
    api_port = OURS["api"]["environment"]["LENSMITH_PORT"]
    assert int(api_port) == Settings.model_fields["port"].default
    assert OURS["api"]["ports"] == [f"{api_port}:{api_port}"]
    assert f":{api_port}/healthz" in OURS["api"]["healthcheck"]["test"][-1]
    assert "ports" not in OURS["serving"]


def test_the_health_path_exists():
    import api.health

    assert "/healthz" in {route.path for route in api.health.router.routes}


def test_every_volume_dependency_and_build_target_is_declared():
    targets = set(re.findall(r"^FROM \S+ AS (\w+)", DOCKERFILE, re.MULTILINE))
    for name, service in SERVICES.items():
        for volume in service.get("volumes", ()):
            assert volume.split(":")[0] in COMPOSE["volumes"], name
        assert set(service.get("depends_on", ())) <= set(SERVICES), name
        if "build" in service:
            assert service["build"]["target"] in targets


def test_what_others_wait_for_is_healthy_or_ends():
    for name, service in SERVICES.items():
        for other, how in service.get("depends_on", {}).items():
            if how["condition"] == "service_healthy":
                assert "healthcheck" in SERVICES[other], (name, other)


def test_every_part_that_runs_on_has_a_health_check():
    lasting = {name for name, service in OURS.items() if service.get("restart") != "no"}
    assert {name for name in lasting if "healthcheck" not in OURS[name]} == set()
    assert lasting == {"api", "worker", "worker-cpu", "beat", "serving"}


def test_the_check_of_beat_tells_beat_from_anything_else(tmp_path):
    check, command = OURS["beat"]["healthcheck"]["test"], OURS["beat"]["command"]
    for words, status in ((command, 0), (OURS["worker"]["command"], 1)):
        (tmp_path / "cmdline").write_bytes(b"\0".join(word.encode() for word in ["python", *words, ""]))
        code = check[-1].replace("/proc/1/cmdline", str(tmp_path / "cmdline"))
        assert subprocess.run([sys.executable, "-c", code], check=False).returncode == status


def test_serving_sees_no_database_no_broker_and_no_key():
    names = OURS["serving"]["environment"]
    assert [name for name in names if any(word in name for word in ("DATABASE", "REDIS", "API_KEY"))] == []
    assert names["LENSMITH_STORAGE_URL"] == OURS["worker"]["environment"]["LENSMITH_STORAGE_URL"]


def test_the_gpu_is_reserved_where_models_run_and_nowhere_else():
    """The worker without a card has torch as well: it measures data sets with the tokenizer of a base."""
    for name, service in OURS.items():
        assert ("deploy" in service) == (name in {"worker", "serving"}), name
    assert {name for name, service in OURS.items() if service["build"]["target"] == "cuda"} == {
        "worker",
        "worker-cpu",
        "serving",
    }
    devices = OURS["worker"]["deploy"]["resources"]["reservations"]["devices"]
    assert devices == [{"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}]


def test_the_dockerfile_copies_what_is_there_and_every_package():
    copied = [word for line in re.findall(r"^COPY (.*)", DOCKERFILE, re.MULTILINE) for word in line.split()[:-1]]
    assert [name for name in copied if not (ROOT / name).exists()] == []
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"benchmarks", "examples", "tests"}
    assert packages <= set(copied)


def extras_of(target):
    """Return the optional dependencies that an image installs."""
    stage = DOCKERFILE.split(f"AS {target}\n")[1].split("FROM")[0]
    return {extra for extras in re.findall(r"\.\[([\w,]+)\]", stage) for extra in extras.split(",")}


def test_the_small_image_installs_nothing_that_only_workers_need():
    """It kept the library that reads the Hub (and pandas, aiohttp ...) after its worker had moved to the other image."""
    assert extras_of("api") == set()
    assert {name for name, service in OURS.items() if service["build"]["target"] == "api"} == {"api", "beat", "migrate"}


def test_the_image_of_the_workers_trains_and_reads_the_hub():
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    installed = {name for extra in extras_of("cuda") for name in declared[extra]}
    assert {"torch", "trl"} | set(declared["hub"]) <= installed


def test_no_secret_has_a_default():
    for service in SERVICES.values():
        for name, value in service.get("environment", {}).items():
            if any(word in name for word in ("PASSWORD", "SECRET", "API_KEY")):
                assert ":?" in str(value), name
