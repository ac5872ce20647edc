"""Preference pairs: three layouts in, two checked columns out; and pairs made from reviews."""

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset

from rlhf import data, pairs
from rlhf.errors import BadData, CourseError, MissingAssets
from rlhf.pairs import is_turned, load_pairs, review_pairs, save_pairs, split_prompt, to_text
from rlhf.pretrain import policy_tokenizer

TALK = "\n\nHuman: Any good film?\n\nAssistant: Which kind?\n\nHuman: A quiet one.\n\nAssistant:"
HH = [{"chosen": f"{TALK} Try number {i}.", "rejected": f"{TALK} No idea, {i}."} for i in range(10)]
ORCA = [
    {"system": "", "question": "Two and two?", "chosen": "Four.", "rejected": "Five, I am sure."},
    {"system": "Be brief.", "question": "Three?", "chosen": "Yes, three.", "rejected": "Three is a number."},
]


def jsonl(path, rows, opener=open):
    path.parent.mkdir(parents=True, exist_ok=True)
    with opener(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return path


def zipped(path, rows):
    return jsonl(path, rows, gzip.open)


def parquet(path, columns):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)
    return path


# ------------------------------------------------------------------------------------------------- reading


def test_hh_layout_zipped_plain_and_parquet_are_the_same(tmp_path):
    zipped(tmp_path / "a" / "harmless-base" / "train.jsonl.gz", HH)
    jsonl(tmp_path / "b" / "train.jsonl", HH)
    parquet(tmp_path / "c" / "data" / "train-00000-of-00001.parquet", Dataset.from_list(HH).to_dict())
    parquet(tmp_path / "d" / "default" / "train" / "0000.parquet", Dataset.from_list(HH).to_dict())
    for folder in "abcd":
        rows = data.load_pairs(tmp_path / folder)
        assert rows.column_names == ["chosen", "rejected"]
        assert rows.to_list() == HH


def test_subfolders_are_read_together_in_the_order_of_their_names(tmp_path):
    zipped(tmp_path / "helpful-base" / "test.jsonl.gz", HH[5:])
    zipped(tmp_path / "harmless-base" / "test.jsonl.gz", HH[:5])
    zipped(tmp_path / "red-team-attempts" / "red_team_attempts.jsonl.gz", [{"transcript": "x"}])
    assert load_pairs(tmp_path, "test").to_list() == HH


@pytest.mark.parametrize(
    ("split", "rows"),
    [
        ("train", HH),
        ("train[:3]", HH[:3]),
        ("train[2:4]", HH[2:4]),
        ("train[-2:]", HH[-2:]),
        ("train[:20%]", HH[:2]),
        ("train[:5000]", HH),
        ("train[:1]+train[9:]", [HH[0], HH[9]]),
    ],
)
def test_slices_are_those_of_datasets(tmp_path, split, rows):
    assert load_pairs(jsonl(tmp_path / "train.jsonl", HH), split).to_list() == rows


def test_a_mapping_of_slices_gives_a_dict(tmp_path):
    jsonl(tmp_path / "train.jsonl", HH)
    jsonl(tmp_path / "test.jsonl", HH[:4])
    found = load_pairs(tmp_path, {"train": "train[:5]", "held_out": "test[:2]"})
    assert {name: len(rows) for name, rows in found.items()} == {"train": 5, "held_out": 2}


@pytest.mark.parametrize("split", ["train[7:3]", "train[20:]", "train[", "train[:1.5]", "train[a:b]", ""])
def test_bad_slices_are_named(tmp_path, split):
    jsonl(tmp_path / "train.jsonl", HH)
    with pytest.raises(CourseError, match=r"slice|split") as caught:
        load_pairs(tmp_path, split)
    assert any("\u4e00" <= letter <= "\u9fff" for letter in caught.value.zh)


def test_orca_layout_becomes_dialogues(tmp_path):
    rows = load_pairs(jsonl(tmp_path / "orca_rlhf.jsonl", ORCA))
    assert rows[0]["chosen"] == "\n\nHuman: Two and two?\n\nAssistant: Four."
    assert rows[1]["rejected"] == "Be brief.\n\nHuman: Three?\n\nAssistant: Three is a number."
    assert rows[1]["chosen"] == to_text("Three?", "Yes, three.", "Be brief.")
    without_system = [{key: row[key] for key in ("question", "chosen", "rejected")} for row in ORCA]
    assert load_pairs(jsonl(tmp_path / "other.jsonl", without_system))[0] == rows[0]
    nothing = [row | {"system": None} for row in ORCA]
    assert load_pairs(jsonl(tmp_path / "null.jsonl", nothing))[0] == rows[0]


def test_trls_explicit_prompt_is_put_in_front(tmp_path):
    rows = [{"prompt": "The film was", "chosen": " great.", "rejected": " dull."}]
    assert load_pairs(jsonl(tmp_path / "x.jsonl", rows))[0] == {
        "chosen": "The film was great.",
        "rejected": "The film was dull.",
    }


@pytest.mark.parametrize(
    ("rows", "named"),
    [
        ([{"prompt": "a", "completion": "b"}], r"lacks the columns \['chosen', 'rejected'\].*'completion'"),
        ([{"chosen": "a", "text": "b"}], r"\['rejected'\]"),
        ([{"chosen": "a", "rejected": "b"}, {"chosen": " ", "rejected": "b"}], "row 1"),
        ([{"chosen": "a", "rejected": None}, {"chosen": "a", "rejected": "b"}], "row 0"),
        ([{"chosen": "a", "rejected": "b"}, {"chosen": "c", "rejected": "c"}], "equal, first row 1"),
        ([{"chosen": 1, "rejected": 2}], "not text but int64"),
        ([{"chosen": [{"role": "user", "content": "a"}], "rejected": []}], "conversation"),
        ([ORCA[0], ORCA[1] | {"question": ""}], "row 1"),
        ([ORCA[0], ORCA[1] | {"rejected": "  "}], "row 1"),
        ([ORCA[0] | {"rejected": "Four."}], "equal"),
        ([{"prompt": None, "chosen": "a", "rejected": "b"}], "row 0"),
        ([], "no rows"),
    ],
)
def test_what_cannot_be_trained_on_is_named(tmp_path, rows, named):
    with pytest.raises(BadData, match=named) as caught:
        load_pairs(jsonl(tmp_path / "train.jsonl", rows))
    assert any("\u4e00" <= letter <= "\u9fff" for letter in caught.value.zh)


def test_bad_rows_can_be_left_out_and_are_counted(tmp_path, capsys):
    rows = [*HH[:3], {"chosen": "", "rejected": "b"}, {"chosen": "c", "rejected": "c"}]
    assert load_pairs(jsonl(tmp_path / "train.jsonl", rows), drop_bad=True).to_list() == HH[:3]
    assert "1 rows with an empty text, 1 with two equal ones" in capsys.readouterr().out
    with pytest.raises(BadData):  # nothing would be left
        load_pairs(jsonl(tmp_path / "train.jsonl", rows[3:]), drop_bad=True)


def test_missing_and_damaged_files_are_named(tmp_path):
    with pytest.raises(MissingAssets, match="no preference pairs"):
        load_pairs(tmp_path / "nowhere")
    file = zipped(tmp_path / "train.jsonl.gz", HH)
    with pytest.raises(MissingAssets, match=r"no file of the split test.*train\.jsonl\.gz"):
        load_pairs(tmp_path, "test")
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(BadData, match="cannot be read"):
        load_pairs(tmp_path)
    file.write_bytes(b"this is no gzip")
    with pytest.raises(BadData, match="cannot be read"):
        load_pairs(tmp_path)
    for text in (
        '[{"chosen": "a", "rejected": "b"}]',
        '{"chosen": "a", "rejected"',
        "<html>not found</html>",
    ):
        (tmp_path / "other").mkdir(exist_ok=True)
        (tmp_path / "other" / "train.jsonl").write_text(text)
        with pytest.raises(BadData, match="cannot be read"):
            load_pairs(tmp_path / "other")
    damaged = parquet(tmp_path / "p" / "train.parquet", Dataset.from_list(HH).to_dict())
    damaged.write_bytes(damaged.read_bytes()[:-30])
    with pytest.raises(BadData, match="cannot be read"):
        load_pairs(tmp_path / "p")


def test_a_very_long_row_is_read(tmp_path):
    rows = [{"chosen": "good " * 500_000, "rejected": "bad"}]  # longer than pyarrow's default block
    assert len(load_pairs(zipped(tmp_path / "train.jsonl.gz", rows))[0]["chosen"]) == 2_500_000


def test_what_is_saved_is_what_is_loaded(tmp_path):
    odd = [*HH, {"chosen": 'Ünïcode 中文 \u2028 "quotes"\n', "rejected": "\\n"}]
    splits = {"train": Dataset.from_list(odd), "test": Dataset.from_list(HH[:2])}
    folder = save_pairs(tmp_path / "pairs", splits)
    assert sorted(file.name for file in folder.iterdir()) == ["test.jsonl.gz", "train.jsonl.gz"]
    assert load_pairs(folder).to_list() == odd and len(load_pairs(folder, "test")) == 2
    save_pairs(folder, {"train": splits["test"]})  # a second time replaces all of it
    assert [file.name for file in folder.iterdir()] == ["train.jsonl.gz"]


@pytest.mark.parametrize(
    ("chosen", "rejected", "parts"),
    [
        (HH[0]["chosen"], HH[0]["rejected"], (TALK, " Try number 0.", " No idea, 0.")),
        ("The story was warm.", "The story was wooden.", ("The story was", " warm.", " wooden.")),
        ("The story was ", "The story was wooden.", ("The story was ", "", "wooden.")),
        ("Warm.", "Cold.", ("", "Warm.", "Cold.")),
        ("The story", "The storyteller", ("The", " story", " storyteller")),
        ("The story was", "The story was so dull.", ("The story was", "", " so dull.")),
        # two dialogues that part before the last answer: what they share, not what one of them has
        (TALK + " Yes.", TALK.replace("quiet", "loud") + " No.", None),
    ],
)
def test_the_prompt_is_what_both_share(chosen, rejected, parts):
    prompt, a, b = split_prompt(chosen, rejected)
    assert (prompt + a, prompt + b) == (chosen, rejected)
    if parts is None:
        assert prompt.endswith("Human: A ")
    else:
        assert (prompt, a, b) == parts


# -------------------------------------------------------------------------------------- pairs from reviews


def some_reviews(count=120):
    """Reviews of four sentences; positive ones speak of joy, negative ones of dust, and one side concedes."""
    rows = []
    for i in range(count):
        label = i % 2
        word, other = ("joy", "dust") if label else ("dust", "joy")
        text = f"I saw film {i} with a friend of mine and it was full of {word} from the first scene on. "
        text += (
            f"The story of number {i} gave me {word} and more {word} until the lights went on in the room. "
        )
        if i % 3 == 0:
            text += f"Although part {i} had some {other}, the rest had {word}. "
        rows.append(
            {
                "text": text + f"It was {word} that I will remember when I am old and tell others about.",
                "label": label,
            }
        )
    return Dataset.from_list(rows)


@pytest.fixture(scope="module")
def tokenizer():
    return policy_tokenizer(some_reviews()["text"], 400, 64)


@pytest.fixture(scope="module")
def made(tokenizer):
    return review_pairs(some_reviews(), tokenizer, 40, tokens=(8, 14), turned=0.25, seed=3)


def test_pairs_from_reviews_prefer_the_positive_one(made):
    matched = [row for row in made if not is_turned(row["chosen"], row["rejected"])]
    assert len(made) == 40 and len(matched) == 30
    for row in matched:
        assert row["chosen"].split()[:2] == row["rejected"].split()[:2]
    plain = [row for row in matched if "Although" not in row["chosen"] + row["rejected"]]
    assert len(plain) >= 20
    for row in plain:
        assert "dust" not in row["chosen"] and "joy" not in row["rejected"]


def test_turned_pairs_have_the_same_words_in_another_order(made):
    turned = [row for row in made if is_turned(row["chosen"], row["rejected"])]
    assert len(turned) == 10
    for row in turned:
        bag = [sorted(row[name].replace(",", "").replace(".", "").split()) for name in ("chosen", "rejected")]
        assert bag[0] == bag[1] and row["chosen"] != row["rejected"]
        assert row["chosen"].endswith("joy.") and row["rejected"].endswith("dust.")
    assert not is_turned("Although A, B.", "Although A, C.") and not is_turned("A is B.", "B is A.")


def test_lengths_are_drawn_alike_and_kept(made, tokenizer):
    pieces = [row for row in made if not is_turned(row["chosen"], row["rejected"])]
    lengths = [[len(tokenizer(row[name])["input_ids"]) for row in pieces] for name in ("chosen", "rejected")]
    assert all(7 <= n <= 15 for side in lengths for n in side)  # decoding may join or part one token
    longer = sum(a > b for a, b in zip(*lengths, strict=True))
    shorter = sum(a < b for a, b in zip(*lengths, strict=True))
    assert longer >= 5 and shorter >= 5


def test_no_review_is_used_twice(made):
    numbers = []
    for row in made:
        numbers += {
            word
            for name in ("chosen", "rejected")
            for word in row[name].replace(",", "").split()
            if word.isdigit()
        }
    assert numbers and len(numbers) == len(set(numbers))


def test_same_seed_same_pairs_and_too_few_reviews_are_said(tokenizer, made):
    again = review_pairs(some_reviews(), tokenizer, 40, tokens=(8, 14), turned=0.25, seed=3)
    other = review_pairs(some_reviews(), tokenizer, 40, tokens=(8, 14), turned=0.25, seed=4)
    assert again.to_list() == made.to_list() != other.to_list()
    with pytest.raises(BadData, match=r"120 reviews give \d+ pairs, not 500"):
        review_pairs(some_reviews(), tokenizer, 500, tokens=(8, 14))


def test_the_functions_are_found_in_rlhf_data_too():
    assert data.load_pairs is pairs.load_pairs and data.review_pairs is pairs.review_pairs
