"""``tinynn.devices()``: the devices of a machine, or why there is no GPU."""

import re
from pathlib import Path

import tinynn
from tests.backend.test_cuda_setup import T4, WHEEL_11, WHEEL_12, emulated, install, on_machine, run
from tinynn.backend.cpu.system import usable_cores

PRINT = "import tinynn; print(tinynn.devices())"


def test_the_cpu_comes_first() -> None:
    cpu = tinynn.devices()[0]
    assert (cpu.name, cpu.cores, cpu.emulated, cpu.problem) == ("cpu", usable_cores(), False, None)
    assert cpu.title
    assert cpu.memory is None or cpu.memory > 1 << 28
    assert cpu.versions[0].startswith("NumPy ")


def test_a_gpu(tmp_path: Path) -> None:
    install(tmp_path, WHEEL_12)
    code = """
import tinynn
gpu = tinynn.devices()[1]
print(gpu.name, gpu.title, gpu.compute_capability, gpu.cores, gpu.memory, gpu.emulated)
"""
    assert on_machine(tmp_path, T4, code) == f"cuda:0 Tesla X1 7.5 13 {12 << 30} False\n"


def test_one_line_each_when_printed(tmp_path: Path) -> None:
    install(tmp_path, WHEEL_12)
    cpu, gpu, other = on_machine(
        tmp_path, T4 | {"capabilities": [[7, 5], [8, 0]]}, PRINT
    ).splitlines()
    assert re.fullmatch(r"cpu     .+, \d+ cores, (\d+\.\d GiB, )?NumPy \S+, .+", cpu)
    assert re.fullmatch(
        r"cuda:0  Tesla X1, compute capability 7\.5, 13 multiprocessors, 12\.0 GiB, "
        r"CuPy 14\.2\.0 \(cupy-cuda12x\), CUDA 12\.9, NVIDIA driver .*for CUDA 12\.4",
        gpu,
    )
    assert other.startswith("cuda:1  Tesla X1, compute capability 8.0")
    assert on_machine(tmp_path, T4, PRINT.replace("print(", "print(repr(").replace("())", "()))"))


def test_why_there_is_no_gpu(tmp_path: Path) -> None:
    code = PRINT + "; print(len(tinynn.devices()), tinynn.devices().why_no_cuda)"
    install(tmp_path, WHEEL_12)
    _, reason, summary = on_machine(tmp_path, T4 | {"driver": 0}, code).splitlines()
    assert reason.startswith("no cuda CuPy 14.2.0 (cupy-cuda12x) is installed, but there is no")
    assert summary == f"1 {reason.removeprefix('no cuda ')}"


def test_a_gpu_that_this_cupy_cannot_use_is_listed(tmp_path: Path) -> None:
    install(tmp_path, WHEEL_12)
    lines = on_machine(tmp_path, T4 | {"capabilities": [[8, 0], [3, 7]]}, PRINT).splitlines()
    assert lines[2].startswith("cuda:1  Tesla X1, compute capability 3.7")
    assert lines[3].startswith("        not usable: cuda:1, a Tesla X1, has compute capability 3.7")


def test_nothing_is_started_on_the_gpu(tmp_path: Path) -> None:
    install(tmp_path, WHEEL_11, release="13.6.0")
    assert "cuda:0" in on_machine(tmp_path, T4 | {"cuda": 11080, "status_of_first_use": 2}, PRINT)


@emulated
def test_an_emulation_says_so() -> None:
    assert "cuda:0  EMULATED: CPU emulation of CUDA, compute" in run(PRINT)
    assert "cuda:0  EMULATED: Tesla T4, compute" in run(PRINT, CPUCUDA_NAME="Tesla T4")
