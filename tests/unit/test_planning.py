"""What jobs ask for, and what the doctor says that they need."""

from __future__ import annotations

import pytest

from virnucpro import planning

ESM2_3B = 5700  # megabytes


@pytest.mark.parametrize(
    ("cores", "gpus", "beside", "each"),
    [
        (1, 0, 1, 1),
        (2, 0, 1, 2),
        (64, 0, 4, 8),
        (2, 2, 1, 1),
        (8, 2, 1, 3),
        (8, 3, 1, 2),
        (64, 2, 4, 30),
        (None, 4, 4, 8),
    ],
)
def test_cores_are_divided_between_gpus_and_the_rest(cores, gpus, beside, each):
    assert planning.threads_beside_embedding(cores) == beside
    assert planning.threads_per_embedding(cores, gpus) == each


def test_a_shard_of_the_largest_default_fits_in_common_nodes():
    assert planning.preparing_memory(ESM2_3B) == 13_400
    for gpu, copies in ((True, 2), (False, 3)):
        assert planning.embedding_memory(ESM2_3B, 100_000, 16_000, gpu) == 3000 + copies * ESM2_3B + 1525
    assert planning.check_memory([ESM2_3B, 470]) == 4000 + 4 * 6170
    assert planning.embedding_minutes(ESM2_3B, 100_000, gpu=True) == 30 + 57
    assert planning.embedding_minutes(ESM2_3B, 100_000, gpu=False) == 30 + 2850


def test_memory_and_disk_are_about_what_is_measured():
    assert planning.encoder_memory(36, 2560) == pytest.approx(4 * 2.83e9 + 2e9, rel=0.01)  # 2.8 billion weights
    assert planning.encoder_memory(36, 2560, bf16=True) == pytest.approx(6 * 2.83e9 + 2e9, rel=0.01)
    for numbers, options in ((4, {}), (8, {"keep": "merged"}), (2, {"vectors": "float16"})):
        frame = numbers * (768 + 2560) + 900
        needed = planning.disk_space(1000, 160_000, [768, 2560], [470, 5700], **options)
        assert needed == 1000 * frame + 640_000 + 6170 * 2**20
