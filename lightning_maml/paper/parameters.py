"""How many parameters the networks of Table 1 and of Omniglot's context vector have, by config."""

from typing import Final

_OMNIGLOT: Final = {
    "siamese": 112_001,
    "matching": 111_936,
    "statistician": 8_176_903,
    "memory_module": 116_032,
    "prototypical": 111_936,
}
_MINI: Final = {
    "matching": 71_831_488,
    "meta_lstm": 34_899,
    "first_order": 32_773,
    "prototypical": 113_088,
}

PARAMETERS: Final[dict[str, int]] = {
    "omniglot_5way_1shot": 112_005,
    "omniglot_5way_5shot": 112_005,
    "omniglot_20way_1shot": 112_980,
    "omniglot_20way_5shot": 112_980,
    **{f"omniglot_5way_{k}shot_dense": 247_109 for k in (1, 5)},
    **{f"omniglot_5way_{k}shot_context_vector": 113_365 for k in (1, 5)},
    **{f"omniglot_5way_{k}shot_mann": 680_529 for k in (1, 5)},
    **{
        f"omniglot_{n_way}way_{k}shot_{method}": count
        for method, count in _OMNIGLOT.items()
        for n_way in (5, 20)
        for k in (1, 5)
    },
    "mini_1shot": 32_773,
    "mini_5shot": 32_773,
    **{f"mini_{k}shot_{method}": count for method, count in _MINI.items() for k in (1, 5)},
    "mini_classifier": 215_296,
}
