"""The drawing of a story shows each namespace, each rewrite and each end, and every text can be read."""

from __future__ import annotations

import itertools
import re
import xml.etree.ElementTree as ET
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Struct
from msgspec.structs import replace

from bench.analysis.story import story
from bench.documents.tracing import Followed, Hop, Namespace, Passage, Story, Way, WayEnd
from bench.outside.publish import STEPS
from bench.report import model
from bench.report.drawing import draw
from bench.report.labels import Rectangle
from bench.report.sheet import SIZES, width
from bench.report.story import lines
from dataplanes import catalog
from dataplanes.selection import balances
from tests.conftest import ROOT
from tests.unit.test_story import BACKEND, CLIENT, RECORDED, VIP, followed, recorded, seen

FLOWS = sorted(path.name.removesuffix(".json.gz") for path in RECORDED.glob("*.json.gz"))
SVG = "{http://www.w3.org/2000/svg}"


class Drawn(Struct):
    """A drawing that was read again: its root, and the box of each text."""

    root: ET.Element
    texts: list[tuple[str, Rectangle]]

    @property
    def said(self) -> str:
        """The texts in their order."""
        return "\n".join(text for text, _ in self.texts)

    @property
    def frame(self) -> Rectangle:
        """The whole drawing."""
        return Rectangle(0, 0, float(self.root.attrib["width"]), float(self.root.attrib["height"]))

    def marks(self, direction: str = "") -> str:
        """Return the commands of the marks on the ways of a direction, or of all."""
        groups = [each for each in self.root.iter(f"{SVG}g") if direction in ("", each.attrib["class"])]
        return "\n".join(each.attrib["d"] for group in groups for each in group if each.attrib.get("class") == "mark")


def drawn(*stories: Story) -> Drawn:
    return read(draw(stories, "followed on Linux 6.12"))


def read(svg: str) -> Drawn:
    root = ET.fromstring(svg)
    return Drawn(root, [(each.text or "", box(each)) for each in root.iter(f"{SVG}text") if each.text])


def box(text: ET.Element) -> Rectangle:
    kind, x, y = text.attrib.get("class", ""), float(text.attrib["x"]), float(text.attrib["y"])
    wide = width(text.text or "", kind)
    left = x - wide / 2 if "text-anchor" in text.attrib else x
    return Rectangle(left, y - 0.8 * SIZES[kind], left + wide, y + 0.2 * SIZES[kind])


def frame(path: ET.Element) -> Rectangle:
    x, y, across, down, _ = map(float, re.findall(r"[-.\d]+", path.attrib["d"]))
    return Rectangle(x, y, x + across, y + down)


def demand_legible(found: Drawn) -> None:
    paths = found.root.iter(f"{SVG}path")
    frames = [("a label's frame", frame(each)) for each in paths if each.attrib["class"] == "label"]
    for text, place in [*found.texts, *frames]:
        assert place.outside(found.frame) == pytest.approx(0), text
    for (one, here), (other, there) in itertools.combinations(found.texts, 2):
        assert here.shared(there) == 0, (one, other)


def of(*sightings: Any, **more: Any) -> Story:
    return story(replace(followed(*sightings), **more))


@pytest.mark.parametrize("name", FLOWS)
def test_every_text_has_room_and_fits_a_page(name: str) -> None:
    found = drawn(story(recorded(name)))
    demand_legible(found)
    assert found.frame.right <= 860  # at 768 pixels the smallest letters are 9 pixels high


@pytest.mark.parametrize("name", FLOWS)
def test_every_rewrite_and_every_namespace_is_there(name: str) -> None:
    told = story(recorded(name))
    found = drawn(told)
    words = " ".join(found.said.split())
    for way in told.ways:
        for step in way.steps:
            changed = [f"{a} → {b}" for a, b in zip(step.before, step.after, strict=True) if a != b]
            for part in (*changed, step.by, step.device, step.hook):
                assert part in words
        for passage in way.passages:
            assert passage.namespace in found.said.replace("\n", "")
    assert sum(way.steps != [] for way in told.ways) >= 2


@pytest.mark.parametrize("name", FLOWS)
def test_the_namespaces_of_a_way_are_connected_and_have_all_of_its_steps(name: str) -> None:
    told = story(recorded(name))
    for way in told.ways:
        assert sum(passage.steps for passage in way.passages) == len(way.steps)
        places = iter(way.steps)
        assert [step.namespace for step in way.steps] == [
            passage.namespace for passage in way.passages for _ in itertools.islice(places, passage.steps)
        ]
        origin, backend = told.flow.origin, "lone.1" if told.flow.service == "lone" else "both.1"
        ends = (origin, backend) if way.direction == "request" else (backend, origin)
        assert (way.passages[0].namespace, way.passages[-1].namespace) == ends
        assert {passage.namespace for passage in way.passages} <= {each.name for each in told.flow.namespaces}


def test_a_packet_in_vxlan_passes_the_hosts_once() -> None:
    """The kernel sends it with the device that it left, which is another namespace's."""
    request, reply = story(recorded("nft-host")).ways
    assert [(each.namespace, each.entered, each.left) for each in request.passages][1:-1] == [
        ("worker2.my-network", "veth2", "veth4"),
        ("worker2", "ov1", "ov1"),
        ("worker2.my-network", "veth4", "vxlan0"),
        ("worker2", "eth0", "eth0"),
        ("worker1", "eth0", "eth0"),
        ("worker1.my-network", "vxlan0", "veth1"),
    ]
    back = [each.namespace for each in reply.passages]
    assert back == [each.namespace for each in reversed(request.passages)]


def test_what_follows_a_socket_s_rewrite_goes_the_same_way() -> None:
    request, reply = story(recorded("ebpf-socket")).ways
    assert (request.direction, reply.direction, request.others > 1) == ("request", "reply", True)


def test_a_long_name_is_broken_after_a_dot_or_else_a_hyphen() -> None:
    found = drawn(of(seen("tcp_v4_rcv", namespace="a-b.my-very-long-name")))
    assert "\na-b.\nmy-very-long-\nname\n" in found.said


def test_lanes_go_from_the_client_to_the_backend_node_by_node() -> None:
    found = drawn(story(recorded("page")))
    order = ["my-busybox.1", "worker2.", "lb.worker2.", "worker2", "worker1", "worker1.", "lone.1"]
    heads = {text: place.left + place.right for text, place in reversed(found.texts) if text in order}
    assert sorted(heads, key=heads.__getitem__) == order
    assert {"node worker2", "node worker1", "load balancer"} <= {text for text, _ in found.texts}


def test_the_drawing_can_be_read_without_being_seen() -> None:
    told = story(recorded("page"))
    found = drawn(told)
    title, desc = (found.root.find(f"{SVG}{name}") for name in ("title", "desc"))
    assert title is not None
    assert desc is not None
    assert found.root.attrib["role"] == "img"
    assert found.root.attrib["aria-labelledby"].split() == [title.attrib["id"], desc.attrib["id"]]
    assert title.text == next(iter(lines(told)))
    assert (desc.text or "").split() == " ".join(lines(told)).split()


def test_request_and_reply_can_be_told_apart_in_grey_and_on_a_dark_page() -> None:
    style = drawn(story(recorded("page"))).root.findtext(f"{SVG}style") or ""
    assert ".reply .line,.error .line{stroke-dasharray" in style
    light, dark = style.split("@media(prefers-color-scheme:dark)")
    for name in re.findall(r"--\w+(?=:#)", light):
        assert f"{name}:#" in dark


def test_a_socket_s_rewrite_is_at_its_system_call() -> None:
    found = drawn(story(recorded("ebpf-socket")))
    assert "connect()\nto 10.0.0.8:80 → 10.0.0.9:80\nBPF program of the cgroup (inet4_connect)" in found.said
    assert "getpeername()\nfrom 10.0.0.9:80 → 10.0.0.8:80\nBPF program of the cgroup" in found.said


def test_a_drop_is_told_with_its_place_and_has_a_cross() -> None:
    arrived = drawn(of(seen("tcp_v4_rcv")))
    dropped = drawn(
        of(
            seen("nf_hook_slow", hook="FORWARD"),
            seen("nft_do_chain", hook="FORWARD", ruleset="own forward"),
            seen("kfree_skb", reason="NETFILTER_DROP", function="nf_hook_slow"),
            answered=False,
            answer="nothing for 5 s",
        )
    )
    assert "eth0 FORWARD\nDROPPED: NETFILTER_DROP in nf_hook_slow\n[nft own forward]" in dropped.said
    assert "c got nothing for 5 s" in dropped.said
    assert ("m0 -9.0l-9.0 9.0" in dropped.marks(), "m0 -9.0l-9.0 9.0" in arrived.marks()) == (True, False)
    assert f"arrived\n{CLIENT} > {VIP}" in arrived.said


def test_a_fragment_that_is_joined_has_a_square_and_no_cross() -> None:
    found = drawn(
        of(
            seen("net_dev_queue", fragment=0),
            seen("nf_hook_slow", packet=2, fragment=1424, hook="PREROUTING"),
            seen("udp_rcv"),
        )
    )
    assert "joined to the datagram's other fragments" in found.said
    assert ("m0 -9.0l-9.0 9.0" in found.marks(), "h8.1v8.1h-8.1z" in found.marks()) == (False, True)


def test_the_state_of_connection_tracking_is_in_the_label() -> None:
    found = drawn(of(seen("ip_vs_nat_xmit", hook="INPUT", tracked="new"), seen("tcp_v4_rcv", destination=BACKEND)))
    assert f"to {VIP} → {BACKEND}\nIPVS\nct new" in found.said


@pytest.mark.parametrize("chain", ["rr-1-8", "nat-postrouting", "a-chain-whose-name-nearly-fills-a-line"])
def test_a_rule_s_handle_is_not_divided(chain: str) -> None:
    hop = Hop("rewritten", "a", "eth0", "POSTROUTING", [CLIENT, VIP], [CLIENT, BACKEND], f"nft vip-my-network {chain}")
    hop = replace(hop, rules=["ip daddr 10.0.0.2 dnat to 10.0.0.3 # handle 16"])
    way = Way(
        "request", "SYN", CLIENT, VIP, [hop], WayEnd("arrived", "a", "eth0"), passages=[Passage("a", "", "eth0", 1)]
    )
    assert "handle 16" in drawn(Story(followed(), [way])).said.replace("\u00a0", " ")


def test_a_packet_that_is_seen_no_more_is_told_as_lost() -> None:
    found = drawn(of(seen("ip_rcv"), seen("nf_hook_slow", hook="INPUT", device="br0")))
    assert "br0 INPUT\nLOST: seen at nf_hook_slow last" in found.said


def test_an_error_has_a_way_of_its_own() -> None:
    found = drawn(of(seen("udp_rcv"), seen("icmp_rcv", source=VIP, destination=CLIENT, packet=2, icmp=3, code=3)))
    assert found.marks("error")
    assert "error: ICMP port unreachable" in found.said


def test_an_arrow_goes_to_each_namespace_and_a_diamond_is_at_each_rewrite() -> None:
    found = drawn(
        of(
            seen("nf_hook_slow", hook="OUTPUT", namespace="a"),
            seen("netif_receive_skb", namespace="b", device="veth1"),
            seen("tcp_v4_rcv", destination=BACKEND, namespace="c"),
        )
    )
    assert found.marks("request").count("v9z") == 2  # the tip of an arrow
    assert found.marks("request").count("l-5.9 5.9") == 1  # a side of a diamond
    assert f"veth1 tc ingress\nto {VIP} → {BACKEND}\nBPF program" in found.said


def test_a_flood_is_drawn_on_the_way_of_the_copy_that_arrives() -> None:
    (way,) = of(
        seen("br_forward", namespace="a", device="vxlan0"),
        seen("netif_receive_skb", copy=2, namespace="other"),
        seen("br_forward", copy=3, namespace="a", device="veth2"),
        seen("kfree_skb", copy=2, namespace="other", reason="OTHERHOST", function="ip_rcv_core"),
        seen("tcp_v4_rcv", copy=3, namespace="backend"),
    ).ways
    assert [(passage.namespace, passage.left) for passage in way.passages] == [("a", "veth2"), ("backend", "eth0")]


def test_a_rewrite_that_only_a_lost_copy_met_is_told_with_its_namespace() -> None:
    told = of(
        seen("br_forward", namespace="a"),
        seen("nf_hook_slow", copy=2, namespace="other", hook="INPUT"),
        seen("kfree_skb", copy=2, namespace="other", destination=BACKEND, reason="OTHERHOST", function="ip_rcv_core"),
        seen("tcp_v4_rcv", namespace="backend"),
    )
    assert f"other eth0 INPUT\nto {VIP} → {BACKEND}" in drawn(told).said


def test_the_first_difference_of_two_planes_is_marked() -> None:
    def at(hook: str) -> Story:
        return of(seen("nf_hook_slow", hook=hook), seen("tcp_v4_rcv", destination=BACKEND), dataplane=hook.lower())

    found = drawn(at("OUTPUT"), at("PREROUTING"))
    demand_legible(found)
    assert "the first difference:\neth0 OUTPUT" in found.said
    assert "the first difference:\neth0 PREROUTING" in found.said
    assert "the first difference is in the request:" in found.said
    same = drawn(at("OUTPUT"), at("OUTPUT"))
    assert "the first difference:" not in same.said
    assert "output and output rewrite the same at the same places" in same.said


def test_a_flow_of_which_nothing_was_seen_is_drawn_without_a_way() -> None:
    found = drawn(of(answered=False, answer="nothing for 5 s"))
    demand_legible(found)
    assert found.said.split("\n")[1:] == [
        "c got nothing for 5 s",
        "the cause is at c: no packet was sent: nothing for 5 s",
        "followed on Linux 6.12",
    ]


def test_what_was_lost_of_the_trace_is_told() -> None:
    assert "12 sightings were lost" in drawn(of(seen("tcp_v4_rcv"), lost=12)).said


NAMES = st.text("ab.-", min_size=1, max_size=40)
DEVICES = st.sampled_from(["", "eth0", "docker_gwbridge"])
KINDS = st.sampled_from(["host", "overlay", "container", "lb", "", "odd"])
SPACES = st.lists(
    st.builds(Namespace, NAMES, KINDS, NAMES | st.just("")),
    min_size=1,
    max_size=8,
    unique_by=lambda each: each.name,
)


@st.composite
def stories(draw: st.DrawFn) -> Story:
    """Return a story with any names, any way through the namespaces, and any number of rewrites in each."""
    spaces = draw(SPACES)
    ways = []
    for direction in ("request", "reply"):
        names = [each.name for each in draw(st.lists(st.sampled_from(spaces), min_size=1, max_size=8))]
        passed = [name for name, _ in itertools.groupby(names)]
        passages = [Passage(name, draw(DEVICES), draw(DEVICES), draw(st.integers(0, 2))) for name in passed]
        steps = [step(passage, draw(NAMES)) for passage in passages for _ in range(passage.steps)]
        end = WayEnd(
            draw(st.sampled_from(["arrived", "dropped", "lost"])), passages[-1].namespace, "eth0", function="f" * 60
        )
        ways.append(Way(direction, "SYN", CLIENT, VIP, steps, end, passages=passages))
    origin, service = draw(NAMES), draw(NAMES)
    flow = Followed("p", origin, CLIENT, service, VIP, "tcp", draw(NAMES), True, VIP, [], 0, spaces)
    return Story(flow, ways)


def step(passage: Passage, by: str) -> Hop:
    ends = ["255.255.255.255:65535", VIP], [CLIENT, "255.255.255.255:65535"]
    return Hop("rewritten", passage.namespace, passage.left, "bridge POSTROUTING", *ends, by)


@given(stories())
@settings(max_examples=min(60, settings().max_examples))
def test_any_story_can_be_read(told: Story) -> None:
    demand_legible(drawn(told))


PUBLISHED = [name for name in catalog.names() if balances(name)]


@pytest.mark.parametrize("plane", PUBLISHED)
def test_a_published_drawing_shows_what_is_known_of_its_plane(plane: str) -> None:
    known = msgspec.toml.decode((ROOT / "tests" / "lab" / "stories.toml").read_bytes())[plane]
    (step,) = (each for each in STEPS if each.document == f"planes/{plane}.svg")
    assert step.arguments[:7] == ("trace", "--dataplane", plane, "--scenario", "matrix", "--to", "lone")
    found = read((model.PUBLISHED / step.document).read_text("utf-8"))
    demand_legible(found)
    words = " ".join(found.said.split())
    *rewrites, answer = known.get("remote tcp") or known["remote"]
    for rewrite in rewrites:
        place, change = rewrite.rsplit(": ", 1)
        expected = change.replace(" -> ", " → ").replace("sent on", "sent on as it is")
        assert re.search(re.escape(expected).replace(r"\*", r"\d+"), words), rewrite
        assert place.split()[-1] in words  # the hook
    saw, _, source = answer.partition(", from ")
    assert f"my-busybox.1 got an answer from {source}" in words
    assert re.search(re.escape(saw).replace(r"\*", r"\d+"), words)


def test_every_plane_has_its_drawing_on_the_page() -> None:
    page = (ROOT / "docs" / "planes.md").read_text("utf-8")
    assert sorted(re.findall(r"\.\./results/planes/(\S+)\.svg\)", page)) == sorted(PUBLISHED)
