"""The launch files are well formed and run the commands that they should."""

import configparser
import pathlib
import shlex
import shutil
import subprocess
import sys
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
  beside_python = str(pathlib.Path(sys.executable).parent)  # of the extra `test`
  tool = shutil.which("shellcheck", path=beside_python) or shutil.which("shellcheck")
  assert tool is not None, "expected shellcheck, of the extra `test`"
  done = run(tool, "-x", script)
  assert done.stdout == done.stderr == ""


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


def shown(processes, *flags, path="", **variables) -> list[str]:
  """Which GPUs the processes of a run on this machine are shown."""
  commands = planned(
    *(LAUNCH / "local.sh", processes, *flags, "--dry-run", "python"),
    PATH=f"{path}:/usr/bin:/bin",
    **variables,
  )
  found = [dict(word.split("=", 1) for word in c if "=" in word) for c in commands]
  assert [one["METRO_PROCESS"] for one in found] == list(map(str, range(len(found))))
  return [one.get("CUDA_VISIBLE_DEVICES") for one in found]


def test_local_gives_every_process_its_share_of_the_gpus(tmp_path):
  script(tmp_path / "nvidia-smi", "seq 0 3")
  assert shown("2", path=tmp_path) == ["0,1", "2,3"]
  assert shown("4", path=tmp_path) == ["0", "1", "2", "3"]
  assert shown("1", path=tmp_path) == [None]
  assert shown("2", "--devices=1", path=tmp_path) == [None] * 2
  assert shown("2", path=tmp_path, JAX_PLATFORMS="cpu") == [None] * 2
  assert shown("2", path=tmp_path, CUDA_VISIBLE_DEVICES="7,5") == ["7", "5"]
  assert shown("2", path=tmp_path, CUDA_VISIBLE_DEVICES="") == [None] * 2
  assert shown("2") == [None] * 2
  few = run(LAUNCH / "local.sh", "8", "true", PATH=f"{tmp_path}:/usr/bin:/bin")
  assert few.returncode == 2
  assert few.stderr.startswith(
    "local.sh: expected a GPU for each of 8 processes, got 4"
  )


def script(path: pathlib.Path, text: str) -> None:
  """Makes a program that stands in for another."""
  path.write_text(f"#!/bin/bash\n{text}\n")
  path.chmod(0o755)


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


# Answers of the cloud's program, one a line and a call; the last one stays.
GCLOUD = """
echo "$@" >> {folder}/calls
case "$*" in
  *"queued-resources describe"*) answers=states ;;
  *"ssh"*"pgrep"*"echo lost"*) answers=looks ;;
  *) exit 0 ;;
esac
line=$(head -n 1 {folder}/$answers)
[ "$(wc -l < {folder}/$answers)" -eq 1 ] || sed -i 1d {folder}/$answers
case $line in
  ERROR*) echo "$line" >&2; exit 1 ;;
  *) echo "$line" | tr '/' '\n' ;;
esac
"""
NOT_FOUND = "ERROR: (gcloud) NOT_FOUND: Resource 'pod-queued' was not found."
REFUSED = "ERROR: (gcloud) UNAUTHENTICATED: token expired"


def supervised(folder, states, looks) -> tuple[int, list[str]]:
  """Exit code of the supervisor, and what it did, with such answers."""
  script(folder / "gcloud", GCLOUD.format(folder=folder))
  for name in ("tar", "sleep"):
    script(folder / name, "exit 0")
  (folder / "states").write_text("".join(f"{line}\n" for line in states))
  (folder / "looks").write_text("".join(f"{line}\n" for line in looks))
  done = run(
    *(LAUNCH / "tpu_queued.sh", "--config=a.py"),
    NAME="pod",
    PATH=f"{folder}:/usr/bin:/bin",
  )
  kinds = {
    "queued-resources create": "create",
    "queued-resources delete": "delete",
    "uv pip install": "install",
    "nohup": "run",
  }
  calls = (folder / "calls").read_text()
  calls = calls.replace("gcloud compute", "").split("compute tpus ")
  found = [kinds[kind] for call in calls for kind in kinds if kind in call]
  return done.returncode, found


@pytest.mark.parametrize(
  ("states", "looks", "did"),
  [
    ([NOT_FOUND, NOT_FOUND, "ACTIVE"], ["0/0"], "create install run delete"),
    # What cannot be asked has not changed: no second slice, no second start.
    ([REFUSED, REFUSED, "ACTIVE"], ["0/0"], "install run delete"),
    (["ACTIVE", "ACTIVE", REFUSED, "ACTIVE"], ["0/0"], "install run delete"),
    (
      ["ACTIVE"],
      ["running/running", "running/75", "75/75", "0/0"],
      "install run run delete",
    ),
    # One machine has started anew; the others may still wait for it.
    (["ACTIVE"], ["running/lost", "0/0"], "install run run delete"),
    (["ACTIVE"], ["ERROR: no route", "SSH: 2 workers/0/0"], "install run delete"),
    (
      [*["ACTIVE"] * 2, *["SUSPENDED"] * 3, NOT_FOUND, "ACTIVE"],
      ["0/0"],
      "install run delete create install run delete",
    ),
  ],
)
def test_tpu_queued_starts_anew_when_it_must_and_never_twice(
  tmp_path, states, looks, did
):
  assert supervised(tmp_path, states, looks) == (0, did.split())


def test_tpu_queued_gives_up_a_run_that_fails_three_times(tmp_path):
  code, did = supervised(tmp_path, ["ACTIVE"], ["1/1"])
  assert (code, did) == (1, ["install", "run", "run", "run"])


def on_machine(folder: pathlib.Path, action: str, *flags: str) -> str:
  """What one machine prints when it is asked this."""
  (command,) = planned(LAUNCH / "tpu_pod.sh", "--dry-run", action, *flags)
  done = subprocess.run(
    ["bash", "-c", command[-1].removeprefix("--command=")],
    cwd=folder,
    capture_output=True,
    text=True,
    timeout=60,
  )
  return done.stdout.strip()


def test_tpu_pod_tells_a_run_that_goes_on_from_one_that_a_reboot_ended(tmp_path):
  home = tmp_path / "metro_jax"
  (home / ".venv" / "bin").mkdir(parents=True)
  wait = "trap 'echo saved >> saved; exit 75' TERM; echo >> begun; sleep 60 >&- & wait"
  script(home / ".venv" / "bin" / "python", wait)

  def start(number):
    on_machine(tmp_path, "run", "--config=a.py")
    while not (home / "begun").exists() or len((home / "begun").read_text()) < number:
      time.sleep(0.02)

  start(1)
  assert on_machine(tmp_path, "status") == "running"
  start(2)  # the first one is stopped, and has saved, before there is a second
  assert (home / "saved").read_text() == "saved\n"
  assert on_machine(tmp_path, "status") == "running"
  number = (home / "train.pid").read_text()
  with subprocess.Popen(["sleep", "60"]) as other:  # the machine has rebooted since
    (home / "train.pid").write_text(f"{other.pid}\n")
    assert on_machine(tmp_path, "status") == "lost"
    other.kill()
  (home / "train.pid").write_text(number)
  on_machine(tmp_path, "stop")
  while on_machine(tmp_path, "status") == "running":
    time.sleep(0.05)
  assert on_machine(tmp_path, "status") == "75"


def test_slurm_starts_the_command_and_knows_its_code(tmp_path):
  (command,) = planned(
    "bash", LAUNCH / "slurm.sbatch", "--config=a b.py", DRY_RUN="1", PYTHON="python"
  )
  # One that ends with 75 must not have those killed that still save.
  assert command[:3] == ["srun", "--kill-on-bad-exit=0", "--wait=0"]
  flags = ["--stopped_exit_code=75", "--config=a b.py"]
  assert command[3:] == ["python", *TRAIN.split(), *flags]


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
    script(tmp_path / name, text)
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
  assert pod["securityContext"]["runAsUser"] == 0  # who may write into the bucket
  assert pod["terminationGracePeriodSeconds"] <= 30  # all that a spot machine gives
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


def test_the_image_holds_what_it_copies_and_installs_tested_versions():
  root = LAUNCH.parent
  lines = (LAUNCH / "Dockerfile").read_text().splitlines()
  copied = [word for line in lines if line.startswith("COPY") for word in line.split()]
  sources = {word for word in copied if (root / word.rstrip("/")).exists()}
  assert {"setup.cfg", "pyproject.toml", "metro_jax", "configs"} <= sources
  assert ".ci/constraints.txt" in sources
  (install,) = (line for line in lines if "pip install" in line)
  assert "-c .ci/constraints.txt" in install and "${EXTRA}" in install
  setup = configparser.ConfigParser()
  setup.read(root / "setup.cfg")
  assert {"tpu", "cuda", "cuda13", "gcs"} <= set(setup["options.extras_require"])
  (user,) = (line.split()[1] for line in lines if line.startswith("USER"))
  assert user.isdigit() and user != "0"  # by a number, pods can tell it is not root
  # What the pods run is in the image, where the image starts.
  assert "--config=configs/h36m.py" in (LAUNCH / "gke_jobset.yaml").read_text()
  assert (root / "configs" / "h36m.py").exists()
