"""Where a process stands is read from what launchers set, and nothing is guessed."""

import pytest
from jax._src import hardware_utils

from metro_jax.cluster import processes

SLURM = {
  "SLURM_JOB_ID": "5000",
  "SLURM_STEP_ID": "2",
  "SLURM_STEP_NODELIST": "gpu[07-09],other",
  "SLURM_STEP_TASKS_PER_NODE": "8(x2)",
  "SLURM_NTASKS": "16",
  "SLURM_PROCID": "9",
  "SLURM_LOCALID": "1",
}
OPEN_MPI = {
  "OMPI_COMM_WORLD_SIZE": "4",
  "OMPI_COMM_WORLD_RANK": "3",
  "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
  "OMPI_COMM_WORLD_LOCAL_RANK": "1",
  "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911",
}
EXPLICIT = {
  "METRO_COORDINATOR": "10.0.0.1:1234",
  "METRO_PROCESSES": "3",
  "METRO_PROCESS": "2",
}


def test_without_a_launcher_a_command_runs_alone():
  assert processes.find({}) == ("no launcher", None, 1, 0, None)


def test_explicit_variables_are_taken_as_they_are():
  place = processes.find(EXPLICIT)
  assert place[1:] == ("10.0.0.1:1234", 3, 2, None)
  some = processes.find(EXPLICIT | {"METRO_LOCAL_DEVICES": "2,3"})
  assert some.local_devices == (2, 3)


def test_an_indexed_job_of_kubernetes_numbers_its_processes():
  env = {**EXPLICIT, "JOB_COMPLETION_INDEX": "1"}
  del env["METRO_PROCESS"]
  assert processes.find(env).index == 1


def test_slurm_tasks_meet_on_the_first_host_at_a_port_of_the_job():
  place = processes.find(SLURM)
  # 61440 + (5000 + 2) mod 4096
  assert place == ("Slurm", "gpu07:62346", 16, 9, (1,))
  assert processes.find(SLURM | {"SLURM_STEP_ID": "3"}).coordinator == "gpu07:62347"


def test_slurm_with_one_task_a_node_or_one_device_shown_keeps_all_devices():
  for more in ({"SLURM_STEP_TASKS_PER_NODE": "1(x16)"}, {"CUDA_VISIBLE_DEVICES": "0"}):
    assert processes.find(SLURM | more).local_devices is None
  eight = {"CUDA_VISIBLE_DEVICES": "0,1,2,3,4,5,6,7"}
  assert processes.find(SLURM | eight).local_devices == (1,)


def test_a_slurm_job_of_one_task_or_outside_of_a_step_runs_alone():
  assert processes.find(SLURM | {"SLURM_NTASKS": "1"}).count == 1
  batch_script = {k: v for k, v in SLURM.items() if k != "SLURM_STEP_NODELIST"}
  assert processes.find(batch_script).count == 1


@pytest.mark.parametrize(
  ("nodes", "first"),
  [
    ("node001", "node001"),
    ("node001,host2", "node001"),
    ("node[001-0015],host2", "node001"),
    ("node[7,9-12]", "node7"),
    ("a[03-05]-x.example,b", "a03-x.example"),
  ],
)
def test_the_first_host_of_a_node_list(nodes, first):
  assert processes.first_host(nodes) == first


def test_open_mpi_ranks_meet_where_mpirun_runs():
  place = processes.find(OPEN_MPI)
  # The job's number is the first one's upper bits: 1531576320 / 4096 = 373920.
  port = 61_440 + 373_920 % 4_096
  assert place == ("Open MPI", f"10.96.0.1:{port}", 4, 3, (1,))
  six = {"OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp6://[fe80::1,fe80::2]:43370"}
  assert processes.find(OPEN_MPI | six).coordinator == f"[fe80::1]:{port}"


def test_open_mpi_5_needs_a_coordinator_and_says_so():
  env = {k: v for k, v in OPEN_MPI.items() if not k.startswith("OMPI_MCA")}
  with pytest.raises(ValueError, match="rank 3 of 4: expected METRO_COORDINATOR"):
    processes.find(env)
  given = processes.find(env | {"METRO_COORDINATOR": "n1:99"})
  assert (given.coordinator, given.count, given.index) == ("n1:99", 4, 3)


def test_metro_processes_1_runs_alone_whatever_else_is_set():
  assert processes.find({**SLURM, **OPEN_MPI, "METRO_PROCESSES": "1"}).count == 1


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"METRO_PROCESS": ""}, "expected METRO_PROCESS beside METRO_COORDINATOR=10"),
    ({"METRO_PROCESSES": ""}, "expected METRO_PROCESSES beside"),
    ({"METRO_PROCESS": "3"}, "expected a process from 0 to 2, got 3"),
    ({"METRO_PROCESS": "x"}, "METRO_PROCESS: expected a whole number from 0, got 'x'"),
    ({"METRO_COORDINATOR": "10.0.0.1"}, "expected a coordinator host:port"),
    ({"METRO_LOCAL_DEVICES": "a"}, "METRO_LOCAL_DEVICES: expected numbers"),
  ],
)
def test_variables_that_do_not_fit_are_named(change, message):
  with pytest.raises(ValueError, match=message):
    processes.find(EXPLICIT | change)


def test_tpus_are_used_where_chip_library_and_platform_are(tmp_path, monkeypatch):
  card = tmp_path / "0000:00:04.0"
  card.mkdir()
  monkeypatch.setattr(processes.importlib.util, "find_spec", lambda name: object())
  look = hardware_utils.glob.glob
  monkeypatch.setattr(
    hardware_utils.glob,
    "glob",
    lambda pattern: look(pattern.replace("/sys/bus/pci/devices", str(tmp_path))),
  )

  def found(vendor, device, **env):
    (card / "vendor").write_text(vendor + "\n")
    (card / "device").write_text(device + "\n")
    return processes.find(env).source == "Cloud TPU"

  v5e = ("0x1ae0", "0x0063")
  assert found(*v5e)
  assert found(*v5e, JAX_PLATFORMS="tpu,cpu")
  assert not found("0x1ae0", "0x0042")  # gVNIC, the network card of Google's machines
  assert not found("0x10de", "0x0063")
  assert not found(*v5e, JAX_PLATFORMS="cpu")
  assert not found(*v5e, TPU_SKIP_MDS_QUERY="1", TPU_WORKER_HOSTNAMES="localhost")
  assert found(*v5e, TPU_SKIP_MDS_QUERY="1", TPU_WORKER_HOSTNAMES="a,b")


@pytest.mark.parametrize("kind", [RuntimeError, ValueError, ConnectionError])
def test_what_keeps_jax_from_connecting_names_the_way_to_run_alone(kind, monkeypatch):
  def fail(*arguments, **named):
    raise kind("coordinator_address should be defined.")

  monkeypatch.setattr(processes.jax.distributed, "initialize", fail)
  monkeypatch.setattr(processes.jax.config, "update", lambda name, value: None)
  with pytest.raises(ValueError, match=r"Cloud TPU: .*; METRO_PROCESSES=1"):
    processes.join(processes.Place("Cloud TPU", count=None, index=None))
