"""The launch files are well formed and run the commands that they should."""

import pathlib
import shlex
import shutil
import subprocess
import time

import pytest

LAUNCH = pathlib.Path(__file__).parents[2] / "launch"
SCRIPTS = sorted([*LAUNCH.glob("*.sh"), *LAUNCH.glob("*.sbatch")])
TRAIN = "-m metro_jax.train"


def run(*command, **variables) -> subprocess.CompletedProcess:
  return subprocess.run(
    list(map(str, command)),
    capture_output=True,
    text=True,
    timeout=60,
    env={"PATH": "/usr/bin:/bin", **variables},
  )


def planned(*command, **variables) -> list[list[str]]:
  """The commands that a dry run prints, taken apart as a shell would."""
  done = run(*command, **variables)
  assert done.returncode == 0, done.stderr
  # A command within a command may hold newlines, which are quoted.
  text = done.stdout.replace("\n", " \n ")
  lexer = shlex.split(text.replace(" \n ", " ;; "))
  commands, current = [], []
  for word in lexer:
    if word == ";;":
      commands.append(current)
      current = []
    else:
      current.append(word)
  return [command for command in commands if command]


def test_there_are_launch_files():
  assert [path.name for path in SCRIPTS] == [
    "local.sh",
    "slurm.sbatch",
    "tpu_pod.sh",
    "tpu_queued.sh",
  ]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_bash_reads_every_script(script):
  assert run("bash", "-n", script).stderr == ""


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_has_no_complaints(script):
  tool = shutil.which("shellcheck")
  if tool is None:
    pytest.skip("shellcheck is not installed")
  done = run(tool, "-x", script)
  assert done.stdout == ""


def test_local_starts_every_process_with_its_number():
  first, second = planned(
    LAUNCH / "local.sh", "2", "--port=1234", "--dry-run", "python", "a b"
  )
  common = ["METRO_COORDINATOR=127.0.0.1:1234", "METRO_PROCESSES=2"]
  assert first == [*common, "METRO_PROCESS=0", "python", "a b"]
  assert second == [*common, "METRO_PROCESS=1", "python", "a b"]


def test_local_gives_processes_their_variables_and_the_first_failure():
  print_mine = 'echo "$METRO_PROCESS/$METRO_PROCESSES $JAX_PLATFORMS $XLA_FLAGS"'
  done = run(LAUNCH / "local.sh", "3", "--devices=2", "bash", "-c", print_mine)
  flag = "--xla_force_host_platform_device_count=2"
  assert sorted(line.split() for line in done.stdout.splitlines()) == [
    [f"{index}/3", "cpu", flag] for index in range(3)
  ]
  assert run(LAUNCH / "local.sh", "2", "bash", "-c", "exit $METRO_PROCESS").returncode
  assert run(LAUNCH / "local.sh").returncode == 2


def test_local_passes_sigterm_on_and_waits_for_what_it_does():
  wait = "trap 'sleep 0.3; echo saved; exit 0' TERM; echo here; sleep 30 >&- & wait"
  with subprocess.Popen(
    [LAUNCH / "local.sh", "2", "bash", "-c", wait], stdout=subprocess.PIPE, text=True
  ) as script:
    assert [script.stdout.readline() for _ in range(2)] == ["here\n"] * 2
    script.terminate()
    assert script.communicate(timeout=20)[0] == "saved\n" * 2
    assert script.returncode == 0


def test_tpu_pod_makes_installs_runs_and_follows(tmp_path):
  flags = ("--config=configs/h36m.py", "--workdir=/shared/my run")
  create, tar, copy, install, train, logs = planned(
    LAUNCH / "tpu_pod.sh",
    "--dry-run",
    "all",
    *flags,
    NAME="pod",
    ZONE="eu-1",
    ACCELERATOR="v6e-16",
    PROJECT="mine",
    SPOT="1",
  )
  gcloud = ["gcloud", "compute", "tpus", "tpu-vm"]
  place = ["--zone=eu-1", "--project=mine"]
  assert create == [
    *gcloud,
    "create",
    *place,
    "pod",
    "--accelerator-type=v6e-16",
    "--version=v2-alpha-tpuv6e",
    "--spot",
  ]
  assert tar[0] == "tar"
  assert copy[:7] == [*gcloud, "scp", *place]
  assert copy[-1] == "--worker=all"
  assert install[:9] == [*gcloud, "ssh", *place, "pod", "--worker=all"]
  assert '-e ".[tpu]"' in install[-1]
  assert train[:9] == install[:9]
  assert on_a_machine(tmp_path, train[-1], 3) == [*TRAIN.split(), *flags]
  assert logs[8] == "--worker=0"
  assert "tail" in logs[-1]


def on_a_machine(folder: pathlib.Path, argument: str, code: int) -> list[str]:
  """What Python is given when a machine runs a command of a dry run; it then ends."""
  python = folder / "metro_jax" / ".venv" / "bin" / "python"
  python.parent.mkdir(parents=True)
  text = f'#!/bin/sh\nprintf "%s\\n" "$@" > arguments\necho log\nexit {code}\n'
  python.write_text(text)
  python.chmod(0o755)
  command = argument.removeprefix("--command=")
  subprocess.run(["bash", "-c", command], cwd=folder, check=True, timeout=60)
  written = folder / "metro_jax" / "train.code"
  for _ in range(600):  # it goes on after the command has returned
    if written.exists() and written.read_text():
      break
    time.sleep(0.1)
  assert written.read_text() == f"{code}\n"
  assert (folder / "metro_jax" / "train.log").read_text() == "log\n"
  return (folder / "metro_jax" / "arguments").read_text().splitlines()


def test_tpu_queued_asks_runs_and_gives_back(tmp_path):
  commands = planned(LAUNCH / "tpu_queued.sh", "--dry-run", "--config=a.py", NAME="pod")
  verbs = [command[4] if command[0] == "gcloud" else "tar" for command in commands]
  assert verbs == ["create", "describe", "tar", "scp", "ssh", "ssh", "ssh", "delete"]
  create, train = commands[0], commands[5]
  assert create[3:6] == ["queued-resources", "create", "pod-queued"]
  assert "--spot" in create
  assert "--node-id=pod" in create
  flags = ["--stopped_exit_code=75", "--config=a.py"]
  assert on_a_machine(tmp_path, train[-1], 75) == [*TRAIN.split(), *flags]


def test_slurm_starts_the_command_and_knows_its_code(tmp_path):
  (command,) = planned(
    "bash", LAUNCH / "slurm.sbatch", "--config=a b.py", DRY_RUN="1", PYTHON="python"
  )
  assert command[:2] == ["srun", "--kill-on-bad-exit=1"]
  flags = ["--stopped_exit_code=75", "--config=a b.py"]
  assert command[2:] == ["python", *TRAIN.split(), *flags]


@pytest.mark.parametrize(
  ("code", "requeued", "result"), [(75, True, 0), (0, False, 0), (3, False, 3)]
)
def test_slurm_requeues_a_run_that_was_stopped_and_no_other(
  tmp_path, code, requeued, result
):
  for name, text in {
    "srun": f"exit {code}",
    "scontrol": f'echo "$@" > {tmp_path}/requeued',
  }.items():
    path = tmp_path / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
  done = run(
    "bash",
    LAUNCH / "slurm.sbatch",
    PATH=f"{tmp_path}:/usr/bin:/bin",
    SLURM_JOB_ID="12",
  )
  assert done.returncode == result
  found = tmp_path / "requeued"
  assert (found.read_text() == "requeue 12\n") if requeued else not found.exists()


def test_jobset_says_the_same_everywhere():
  yaml = pytest.importorskip("yaml")
  jobset = yaml.safe_load((LAUNCH / "gke_jobset.yaml").read_text())
  assert (jobset["apiVersion"], jobset["kind"]) == (
    "jobset.x-k8s.io/v1alpha2",
    "JobSet",
  )
  spec = jobset["spec"]
  assert spec["failurePolicy"]["maxRestarts"] > 0
  (job,) = spec["replicatedJobs"]
  job_spec = job["template"]["spec"]
  pod = job_spec["template"]["spec"]
  (container,) = pod["containers"]
  topology = pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"]
  chips = int(topology.split("x")[0]) * int(topology.split("x")[1])
  a_machine = container["resources"]["limits"]["google.com/tpu"]
  assert container["resources"]["requests"]["google.com/tpu"] == a_machine
  assert job_spec["parallelism"] == job_spec["completions"] == chips // a_machine
  assert job_spec["completionMode"] == "Indexed"
  assert job_spec["backoffLimit"] == 0  # the JobSet restarts all, not one pod alone
  assert pod["restartPolicy"] == "Never"
  assert "--stopped_exit_code=75" in container["command"]
  assert {mount["name"] for mount in container["volumeMounts"]} == {
    volume["name"] for volume in pod["volumes"]
  }
  workdir = next(x for x in container["command"] if x.startswith("--workdir="))
  assert workdir.startswith(f"--workdir={container['volumeMounts'][0]['mountPath']}/")


def test_launch_files_use_flags_that_the_command_has():
  from metro_jax import train

  text = "".join(path.read_text() for path in LAUNCH.iterdir())
  assert "--stopped_exit_code" in text
  assert '"stopped_exit_code"' in pathlib.Path(train.__file__).read_text()
