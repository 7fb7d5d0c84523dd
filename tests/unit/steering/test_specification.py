"""Names of hook points that can be written."""

import pytest

from core.errors import InvalidRequest
from core.steering.specification import HookPlace, parse_hook


@pytest.mark.parametrize(
    ("name", "place", "site"),
    [
        ("blocks.0.hook_resid_pre", HookPlace(0, "resid_pre"), 0),
        ("blocks.40.hook_resid_post", HookPlace(40, "resid_post"), 41),
        ("resid_post.7", HookPlace(7, "resid_post"), 8),
        ("resid_pre.0", HookPlace(0, "resid_pre"), 0),
        ("blocks.3.attn.hook_z", HookPlace(3, "attn.hook_z"), None),
        ("blocks.3.hook_mlp_out", HookPlace(3, "hook_mlp_out"), None),
    ],
)
def test_names_are_read(name: str, place: HookPlace, site: int | None) -> None:
    assert parse_hook(name) == place
    assert place.site == site
    assert parse_hook(place.name) == place


@pytest.mark.parametrize(
    "name", ["", "blocks.1.hook_resid_mid", "blocks.-1.hook_resid_pre", "blocks.1.hook_z", "hook_embed", "blocks.².x"]
)
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(InvalidRequest, match="Unsupported hook name"):
        parse_hook(name)


def test_depth_orders_hook_points_as_a_forward_pass_does() -> None:
    names = ["resid_pre.1", "blocks.1.attn.hook_z", "blocks.1.hook_attn_out", "blocks.1.hook_mlp_out", "resid_post.1"]
    depths = [parse_hook(name).depth for name in names]
    assert depths == sorted(depths)
    assert parse_hook("resid_post.1").depth == parse_hook("resid_pre.2").depth
