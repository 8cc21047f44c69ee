"""Models of transformers: from_pretrained, save_pretrained, and what happens without bqq.nn.

Needs transformers (4.5x and 5.x were tried): pip install transformers
"""

from __future__ import annotations

import copy
import json
import pickle
import shutil
import subprocess
import sys

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings("ignore")  # those of transformers are its own

import transformers  # noqa: E402

import bqq  # noqa: E402
import bqq.cli  # noqa: E402
import bqq.nn  # noqa: E402

SIZES = {"hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 128, "vocab_size": 60}
IDS = torch.arange(24).reshape(2, 12)


def bert():
    config = transformers.BertConfig(num_hidden_layers=2, max_position_embeddings=32, **SIZES)
    return transformers.BertModel(config)


def llama(tied=True):
    config = transformers.LlamaConfig(
        num_hidden_layers=2, num_key_value_heads=2, max_position_embeddings=32, tie_word_embeddings=tied, **SIZES
    )
    return transformers.LlamaForCausalLM(config)


def gpt2():
    config = transformers.GPT2Config(n_embd=64, n_head=4, n_layer=2, vocab_size=60, n_positions=32)
    return transformers.GPT2LMHeadModel(config)


MAKERS = {"bert": bert, "llama": llama, "gpt2": gpt2}


def output(model, ids=IDS):
    with torch.no_grad():
        return model(input_ids=ids)[0]


@pytest.fixture(params=MAKERS)
def compressed(request):
    torch.manual_seed(0)
    model = MAKERS[request.param]().eval()
    ids = torch.randint(0, 60, (8, 4, 12), generator=torch.Generator().manual_seed(1))
    before = output(model)
    report = bqq.nn.compress(
        model, 4, calibration=[{"input_ids": x} for x in ids], patch=32, tune=10, exclude="lm_head", progress=False
    )
    assert len(report.layers) >= 8
    after = output(model)
    assert float((after - before).square().mean() / before.square().mean()) < 0.05
    return model


def test_there_and_back(compressed, tmp_path):
    expected = output(compressed)
    compressed.save_pretrained(tmp_path / "a")
    loaded = type(compressed).from_pretrained(tmp_path / "a")
    assert not any(p.is_meta for p in [*loaded.parameters(), *loaded.buffers()])
    kinds = [type(m) for m in loaded.modules() if type(m).__module__ == "bqq.nn._modules"]
    assert len(kinds) == len([m for m in compressed.modules() if type(m).__module__ == "bqq.nn._modules"])
    assert torch.equal(output(loaded), expected)
    loaded.save_pretrained(tmp_path / "b")
    assert torch.equal(output(type(compressed).from_pretrained(tmp_path / "b")), expected)
    for other in (copy.deepcopy(loaded), pickle.loads(pickle.dumps(loaded))):
        assert torch.equal(output(other), expected)
    with bqq.open(tmp_path / "a" / "model.safetensors") as file:
        assert sum(isinstance(value, bqq.Matrix) for value in file.values()) == len(kinds)
        assert file.metadata["format"] == "pt"


def test_what_save_wrote(compressed, tmp_path):
    expected = output(compressed)
    bqq.nn.save(compressed, tmp_path)
    assert torch.equal(output(type(compressed).from_pretrained(tmp_path)), expected)
    assert json.loads((tmp_path / "config.json").read_text())["quantization_config"] == {"quant_method": "bqq"}
    fresh = type(compressed)(compressed.config).eval()
    assert torch.equal(output(bqq.nn.load(fresh, tmp_path)), expected)


@pytest.mark.parametrize("name", MAKERS)
def test_what_the_command_wrote(tmp_path, name):
    torch.manual_seed(0)
    model = MAKERS[name]().eval()
    model.save_pretrained(tmp_path / "dense")
    command = [sys.executable, "-m", "bqq", "compress", "dense", "small", "--bits", "4", "--effort", "fast", "--quiet"]
    subprocess.run([*command, "--patch", "32"], cwd=tmp_path, check=True, capture_output=True)
    loaded = type(model).from_pretrained(tmp_path / "small")
    before, after = output(model), output(loaded)
    assert float((after - before).square().mean() / before.square().mean()) < 0.05
    assert sum(isinstance(m, (bqq.nn.Linear, bqq.nn.Conv1D)) for m in loaded.modules()) >= 8


def test_the_base_model_of_a_model_with_a_head_and_back(tmp_path):
    torch.manual_seed(0)
    model = llama().eval()
    bqq.nn.compress(model, 3, patch=32, exclude="lm_head", progress=False)
    model.save_pretrained(tmp_path / "head")
    base = transformers.LlamaModel.from_pretrained(tmp_path / "head")
    assert torch.equal(output(base), output(model.model))
    base.save_pretrained(tmp_path / "base")
    again = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "base")
    assert torch.equal(output(again), output(model))


def test_half_precision(tmp_path):
    torch.manual_seed(0)
    model = llama().eval()
    bqq.nn.compress(model, 3, patch=32, exclude="lm_head", progress=False)
    model.save_pretrained(tmp_path)
    loaded = transformers.LlamaForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    layer = loaded.model.layers[0].mlp.up_proj
    assert torch.equal(layer.scales, model.model.layers[0].mlp.up_proj.scales)
    expected = output(model)
    assert float((output(loaded).float() - expected).square().mean() / expected.square().mean()) < 0.01


def test_files_that_do_not_fit(tmp_path):
    torch.manual_seed(0)
    model = llama().eval()
    bqq.nn.compress(model, 3, patch=32, exclude="lm_head", progress=False)
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 1}))
    with pytest.raises(ValueError, match=r"model has no module 'model\.layers\.1\.\S+' \(7 of 14"):
        transformers.LlamaForCausalLM.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({**config, "intermediate_size": 96}))
    with pytest.raises(ValueError, match=r"has a weight of \(\d+, \d+\), the file one of"):
        transformers.LlamaForCausalLM.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config))
    data = bytearray((tmp_path / "model.safetensors").read_bytes())
    data[-5] ^= 1
    (tmp_path / "model.safetensors").write_bytes(data)
    with pytest.raises(bqq.FormatError):
        output(transformers.LlamaForCausalLM.from_pretrained(tmp_path))


ALONE = """
import sys, transformers
try:
    transformers.LlamaForCausalLM.from_pretrained(sys.argv[1])
except RuntimeError as error:
    assert "mismatch" in str(error)
else:
    raise SystemExit("it loaded something")
import bqq.nn
transformers.LlamaForCausalLM.from_pretrained(sys.argv[1])
"""


def test_it_fails_loudly_without_bqq_nn(tmp_path):
    torch.manual_seed(0)
    model = llama().eval()
    bqq.nn.compress(model, 3, patch=32, exclude="lm_head", progress=False)
    model.save_pretrained(tmp_path)
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", ALONE, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# --- bqq compress --calibrate ---


def command(folder, *args):
    line = [sys.executable, "-W", "ignore", "-m", "bqq", "compress", *args, "--patch", "32"]
    return subprocess.run(line, cwd=folder, capture_output=True, text=True)


@pytest.fixture
def words(tmp_path):
    """A model with a tokenizer of words, and a text."""
    tokenizers = pytest.importorskip("tokenizers")
    torch.manual_seed(0)
    llama().eval().save_pretrained(tmp_path / "dense")
    vocabulary = {"?": 0, **{f"w{i}": i for i in range(1, 60)}}
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="?"))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="?").save_pretrained(tmp_path / "dense")
    order = torch.randint(1, 60, (2000,), generator=torch.Generator().manual_seed(1)).tolist()
    (tmp_path / "text.txt").write_text(" ".join(f"w{i}" for i in order))
    return tmp_path


@pytest.mark.slow
def test_calibrated_from_the_command_line(words):
    done = command(words, "dense", "small", "--bits", "3", "--calibrate", "text.txt")
    assert done.returncode == 0, done.stderr
    assert "14 layers at 3." in done.stdout
    assert "s left at most" in done.stderr
    assert not (words / "small.part").exists()
    dense = transformers.LlamaForCausalLM.from_pretrained(words / "dense")
    small = transformers.LlamaForCausalLM.from_pretrained(words / "small")
    before, after = output(dense), output(small)
    assert float((after - before).square().mean() / before.square().mean()) < 0.2
    assert transformers.AutoTokenizer.from_pretrained(words / "small")("w7")["input_ids"] == [7]
    report = json.loads((words / "small" / "bqq-report.json").read_text())
    assert len(report["layers"]) == 14
    assert report["skipped"]["lm_head"].startswith("its weight is shared with")


def test_what_the_command_cannot_use(words):
    (words / "short.txt").write_text("w1 w2")
    for args, says in (
        (("dense", "small", "--bits", "3", "--calibrate", "none.txt"), "none.txt"),
        (("dense", "small", "--bits", "3", "--calibrate", "short.txt"), "2 tokens, expected 32 or more"),
        (("dense", "dense", "--bits", "3", "--calibrate", "text.txt"), "--force replaces it"),
        (("text.txt", "small", "--bits", "3", "--calibrate", "text.txt"), "text.txt"),
    ):
        done = command(words, *args)
        assert done.returncode == 2, done.stderr
        assert says in done.stderr
        assert not (words / "small").exists()


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """A model of images with its processor, and a folder of photos of two formats and sizes."""
    image = pytest.importorskip("PIL.Image")
    pyplot = pytest.importorskip("matplotlib.cbook")
    torch.manual_seed(0)
    sizes = {**SIZES, "num_hidden_layers": 2, "image_size": 16, "patch_size": 8, "num_labels": 3}
    transformers.ViTForImageClassification(transformers.ViTConfig(**sizes)).eval().save_pretrained(tmp_path / "dense")
    transformers.ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(tmp_path / "dense")
    (tmp_path / "photos" / "more").mkdir(parents=True)
    with image.open(pyplot.get_sample_data("grace_hopper.jpg")) as photo:
        for i in range(12):
            photo.crop((30 * i, 40 * i, 30 * i + 150, 40 * i + 120)).save(tmp_path / "photos" / f"{i}.png")
        photo.convert("L").rotate(90).save(tmp_path / "photos" / "more" / "grey.JPG")
    (tmp_path / "photos" / "notes.txt").write_text("no image")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def compress_photos(*options):
    return bqq.cli.main(
        ["compress", "dense", "small", "--bits", "3", "--calibrate", "photos", "--patch", "32", *options]
    )


def test_calibrated_on_photos(photos, capsys):
    assert compress_photos("--correct", "4") == 0, capsys.readouterr().err
    assert "12 layers at 3." in capsys.readouterr().out
    assert not (photos / "small.part").exists()
    dense, small = (
        transformers.AutoModelForImageClassification.from_pretrained(photos / x) for x in ("dense", "small")
    )
    processor = transformers.AutoImageProcessor.from_pretrained(photos / "small")
    image = pytest.importorskip("PIL.Image").open(photos / "photos" / "3.png")
    pixels = processor(images=image, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        before, after = (m(pixel_values=pixels, output_hidden_states=True).hidden_states[-1] for m in (dense, small))
    assert float((after - before).square().mean() / before.square().mean()) < 0.05
    report = json.loads((photos / "small" / "bqq-report.json").read_text())
    assert not [layer for layer in report["layers"] if "saw no" in layer["note"]]
    assert report["correction"]["after"] <= report["correction"]["before"]


def test_photos_that_cannot_be_used(photos, capsys, monkeypatch):
    def says(text):
        assert compress_photos() == 2
        assert text in capsys.readouterr().err
        assert not list(photos.glob("small*"))

    with monkeypatch.context() as without:
        without.setitem(sys.modules, "PIL", None)  # as where it is not installed
        says("--calibrate needs pillow here: pip install pillow")
    (photos / "photos" / "5.png").write_bytes(b"no image")
    says("5.png: cannot identify image file")
    whole = (photos / "photos" / "4.png").read_bytes()
    (photos / "photos" / "5.png").write_bytes(whole[: len(whole) // 2])
    says("5.png: ")
    shutil.rmtree(photos / "photos" / "more")
    for path in (photos / "photos").glob("*.png"):
        path.unlink()
    says("no images in this folder, expected .jpg")
    (photos / "photos" / "1.png").write_bytes(whole)
    (photos / "dense" / "preprocessor_config.json").unlink()
    says("preprocessor_config.json")


def test_options_that_do_not_go_together(tmp_path, capsys):
    for args, text in (
        (["dense", "small", "--correct"], "--correct needs --calibrate"),
        (
            ["w.npy", "w.safetensors", "--calibrate", "x"],
            "the folder of a model to another: not w.npy to w.safetensors",
        ),
    ):
        assert bqq.cli.main(["compress", *args[:2], "--bits", "3", *args[2:]]) == 2
        assert text in capsys.readouterr().err


@pytest.mark.parametrize("how", ["compress", "command"])
def test_fused_experts(tmp_path, how):
    torch.manual_seed(0)
    config = transformers.MixtralConfig(
        num_hidden_layers=2, num_key_value_heads=2, num_local_experts=3, max_position_embeddings=32, **SIZES
    )
    model = transformers.MixtralForCausalLM(config).eval()
    before = output(model)
    if how == "compress":
        bqq.nn.compress(model, 4, patch=32, exclude=["lm_head", "*gate"], progress=False)
        model.save_pretrained(tmp_path / "small")
    else:
        model.save_pretrained(tmp_path / "dense")
        done = command(tmp_path, "dense", "small", "--bits", "4", "--effort", "fast", "--quiet")
        assert done.returncode == 0, done.stderr
        if int(transformers.__version__.split(".")[0]) >= 5:  # the files have experts one by one, the model has not
            with pytest.raises(ValueError, match="18 of 26 compressed ones are missing"):
                transformers.MixtralForCausalLM.from_pretrained(tmp_path / "small")
            return
    loaded = transformers.MixtralForCausalLM.from_pretrained(tmp_path / "small")
    kinds = [m for m in loaded.modules() if isinstance(m, bqq.nn.Linear)]
    assert len(kinds) >= 2 * (4 + 3 * 2)
    after = output(loaded)
    assert float((after - before).square().mean() / before.square().mean()) < 0.1
    if how == "compress":
        assert torch.equal(after, output(model))
