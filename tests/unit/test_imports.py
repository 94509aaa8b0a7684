"""`bench import`: what of people's files becomes a scenario, what is told of the rest, and what is refused.

The small files are written anew after odd ones that people publish: a comment says what is odd.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.imports import reading
from dataplanes.errors import Usage
from scenarios import topology
from tests.conftest import ROOT
from tests.unit.conftest import Bench
from tests.unit.imported import Told, told

NFT = ROOT / "tests" / "unit" / "golden" / "imports"


STACK = """\
version: "3.8"
x-few: &few
  replicas: ${REPLICAS:-2}
  placement:
    constraints: [node.role == worker]
services:
  Web_Front:
    image: web
    ports: ["8080:80", "127.0.0.1:53:53/udp"]
    networks: [front, back]
    deploy:
      <<: *few
  db:
    networks:
      back:
        ipv4_address: 10.20.0.9
    expose: [5432]
    deploy:
      placement: {constraints: ["node.hostname==store.example.com"]}
  agent:
    networks: [back]
    deploy: {mode: global}
networks:
  front:
  back:
    driver_opts: {com.docker.network.driver.mtu: "1400", encrypted: ""}
    ipam: {config: [{subnet: 10.20.0.0/24}]}
"""


def test_a_stack_has_its_nodes_networks_services_replicas_and_ports(tmp_path: Path) -> None:
    found = told(tmp_path, STACK)
    made = found.scenario
    assert made.nodes == ["manager1", "worker1", "store"]
    assert [(each.name, each.subnet, each.mtu) for each in made.networks] == [
        ("front", "10.0.0.0/24", 1450),
        ("back", "10.20.0.0/24", 1400),
    ]
    web = made.service("web-front")
    assert (web.network, web.ports, [task.node for task in web.tasks]) == (
        "front",
        ["80/tcp", "53/udp"],
        ["worker1", "store"],
    )
    assert [list(task.joins) for task in web.tasks] == [["back"], ["back"]]
    assert [task.node for task in made.service("db").tasks] == ["store"]
    assert [task.node for task in made.service("agent").tasks] == made.nodes
    assert (made.traffic.service, made.traffic.client, made.traffic.port) == ("agent", "web-front.1", 80)


def test_every_line_of_a_stack_that_is_not_carried_over_is_told(tmp_path: Path) -> None:
    lines = told(tmp_path, STACK).notes
    assert [line.split(":")[0] for line in lines[:-1]] == ["7", "7", "9", "9", "16", "26"]
    assert lines[2] == "9: published port 8080: a scenario has no routing mesh; the VIP has the target port"
    assert lines[-1].startswith("node store.example.com: it is named store")


def test_ports_beyond_those_that_a_service_can_have_are_told_once(tmp_path: Path) -> None:
    ports = ", ".join(map(str, range(1000, 1100)))
    found = told(tmp_path, f"services:\n  web:\n    ports: [{ports}]\n    expose: [1, 2]\n")
    assert len(found.scenario.service("web").ports) == 64
    assert found.notes[:-1] == [
        "3: further ports: a scenario's service declares at most 64",
        "4: further ports: a scenario's service declares at most 64",
    ]


COMPOSE = {
    "version 1 has no key `services`": ("web: {image: a}\ndb: {build: .}\n", ["db", "web"], ""),
    "a service that is empty": ("services:\n  web:\n  db:\n", ["db", "web"], ""),
    "no VIP": (
        "services: {web: {}, w: {deploy: {endpoint_mode: dnsrr}}, h: {network_mode: host}, "
        "j: {deploy: {mode: global-job}}}",
        ["client", "web"],
        "1: service w: endpoint_mode dnsrr: it has no VIP; it is left out",
    ),
    "a variable without a default": (
        "services:\n  web:\n    ports: ['${PORT}:80', '${HTTP:-8080}']\n    deploy: {replicas: $COUNT}\n",
        ["client", "web"],
        "3: ports[0]: the variable PORT has no default in the file",
    ),
    "a constraint with one =": (
        "services:\n  web:\n    deploy: {placement: {constraints: [node.role=manager], max_replicas_per_node: 1}}\n",
        ["client", "web"],
        "3: constraint node.role=manager: it is not KEY==VALUE or KEY!=VALUE",
    ),
    "no node that fits": (
        "services:\n  web:\n    deploy: {placement: {constraints: [node.role==worker, node.role!=worker]}}\n",
        ["client", "web"],
        "2: placement of web: no node fits; its replicas may run on every node",
    ),
    "a subnet that docker_gwbridge has, an external network": (
        "services: {web: {networks: [n]}, a: {networks: [n]}}\nnetworks:\n  n:\n    external: {name: x}\n"
        "    ipam: {config: [{subnet: 172.18.0.0/24}, {subnet: 'fd00::/64'}]}\n",
        ["a", "web"],
        "3: subnet 172.18.0.0/24 of n: it overlaps 172.18.0.0/16, which each container's gateway has; the network gets "
        "another",
    ),
    "the long form of ports": (
        "services: {web: {ports: [{target: 8080, published: '80', mode: host}]}, a: {}}",
        ["a", "web"],
        "1: published port 80: a scenario has no routing mesh; the VIP has the target port",
    ),
    "a range of ports, and a port beyond": (
        "services: {web: {ports: ['3000-3002', '70000', '6060:6060/udp']}, a: {}}",
        ["a", "web"],
        "1: port 70000: it is not [ADDRESS:][PUBLISHED:]PORT[/PROTOCOL]; it is left out",
    ),
    "a command with a line as ipvsadm has them": (
        "services:\n  web:\n    command: >\n      serve\n      -e all\n  db: {}\n",
        ["db", "web"],
        "",
    ),
    "an option that matters in a file with one line": (
        "services: {web: {links: [db], dns: 10.0.0.9, sysctls: {a: 1}}, db: {}}",
        ["db", "web"],
        "1: dns of web: a container of a scenario asks its embedded DNS only",
    ),
    "a network that is not external": (
        "services: {web: {networks: [n]}, a: {networks: [n]}}\nnetworks: {n: {external: False}}\n",
        ["a", "web"],
        "",
    ),
    "names that no scenario has": (
        "services: {'web.1': {}, web-1: {}, Web_1: {}, " + "x" * 70 + ": {}, 'ünï': {}}",
        ["n", "web-1", "web-1-2", "web-1-3", "x" * 24],
        "1: service web.1: it is named web-1: names have at most 24 lower-case letters, digits and -, and differ",
    ),
}


@pytest.mark.parametrize("case", list(COMPOSE))
def test_odd_compose_files(tmp_path: Path, case: str) -> None:
    text, services, note = COMPOSE[case]
    found = told(tmp_path, text)
    assert sorted(each.name for each in found.scenario.services) == services
    assert note in found.notes if note else found.notes == [], found.notes


KUBERNETES = """\
apiVersion: v1
kind: List
items:
- apiVersion: v1
  kind: Service
  metadata: {name: web, namespace: shop}
  spec:
    clusterIP: 10.96.0.10
    sessionAffinity: ClientIP
    ports: [{name: http, port: 80, targetPort: 8080, nodePort: 30080}, {port: 53, protocol: UDP}]
    internalTrafficPolicy: Cluster
    externalTrafficPolicy: Cluster
- apiVersion: v1
  kind: Service
  metadata: {name: web, namespace: stage}
  spec: {clusterIP: 10.96.0.11, ports: [{port: 443}], selector: {app: web}}
- apiVersion: v1
  kind: Service
  metadata: {name: peers, namespace: shop}
  spec: {clusterIP: None}
- apiVersion: discovery.k8s.io/v1
  kind: EndpointSlice
  metadata: {name: web-x, namespace: shop, labels: {kubernetes.io/service-name: web}}
  addressType: IPv4
  endpoints:
  - {addresses: [10.244.1.5], nodeName: node-a.example.com, conditions: {ready: true}}
  - {addresses: [10.244.2.6], nodeName: node-b, conditions: {ready: false, serving: true, terminating: true}}
  - {addresses: [10.244.2.7], nodeName: node-b, conditions: {ready: false}}
- apiVersion: apps/v1
  kind: StatefulSet
  metadata: {name: web, namespace: stage}
  spec: {replicas: 2, template: {metadata: {labels: {app: web, tier: front}}}}
- {apiVersion: v1, kind: ConfigMap, metadata: {name: x}}
"""


def test_kubernetes_services_have_their_addresses_ports_nodes_and_backends(tmp_path: Path) -> None:
    found = told(tmp_path, KUBERNETES, nodes=2)
    assert found.scenario.nodes == ["node-a", "node-b"]
    assert [each.subnet for each in found.scenario.networks] == ["10.0.0.0/8"]
    assert found.service("web-shop") == (
        "10.96.0.10",
        ["80/tcp", "53/udp"],
        [("node-a", "10.244.1.5", 1), ("node-b", "10.244.2.6", 0)],
    )
    vip, ports, backends = found.service("web-stage")
    assert (vip, ports, [node for node, _, _ in backends]) == ("10.96.0.11", ["443/tcp"], ["node-a", "node-b"])
    assert found.notes[0] == "9: sessionAffinity ClientIP of web-shop: a scenario's services have no such rule"
    assert [note.partition(":")[0] for note in found.notes[1:-1]] == ["10", "10", "17", "28", "33"]
    assert found.notes[-1].startswith("node node-a.example.com: it is named node-a: ")


def test_a_service_and_its_backends_may_be_in_two_files(tmp_path: Path) -> None:
    first, second = tmp_path / "service.yml", tmp_path / "workload.yml"
    first.write_text(
        "apiVersion: v1\nkind: Service\nmetadata: {name: web}\n"
        "spec: {clusterIP: 10.96.0.10, selector: {app: web}, ports: [{port: 80}]}\n"
    )
    second.write_text(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\n"
        "spec: {replicas: 2, template: {metadata: {labels: {app: web}}}}\n"
    )
    for paths in ((first, second), (second, first)):
        found = Told(paths[0], 3, paths[1])
        assert len(found.scenario.service("web").tasks) == 2
        assert [note for note in found.notes if "backends of" in note] == []


@pytest.mark.parametrize("known", ["worker1", "manager1", "worker2"])
def test_a_node_that_a_file_names_counts_as_one_of_those_asked_for(tmp_path: Path, known: str) -> None:
    text = f"services: {{web: {{deploy: {{placement: {{constraints: [node.hostname == {known}]}}}}}}, db: {{}}}}"
    found = told(tmp_path, text, nodes=4)
    assert sorted(found.scenario.nodes) == ["manager1", "worker1", "worker2", "worker3"]
    assert found.scenario.nodes[0] == "manager1", "the first node is the manager"


def test_a_service_whose_addresses_lie_too_far_apart_gets_others(tmp_path: Path) -> None:
    found = told(tmp_path, "-A -t 203.0.113.7:80 -s rr\n-a -t 203.0.113.7:80 -r 10.1.1.1:80 -m -w 1\n")
    assert any("VIP 203.0.113.7 of vip-203-0-113-7: 203.0.113.7 is outside" in note for note in found.notes)


IPVSADM = """\
# ipvsadm.rules
ipvsadm --set 30 5 60
-A -t 10.0.0.1:http -s wrr -p 300
-a -t 10.0.0.1:80 -r 10.0.0.5:http -m -w 25
-a -t 10.0.0.1:80 -r 10.0.0.6:8080 -g -w 1000
-A -u 10.0.0.1:80 -s rr
-a -u 10.0.0.1:80 -r 10.0.0.5:80 -m -w 25
-a -u 10.0.0.1:80 -r 10.0.0.6:80 -m -w 1000
-A -t 10.0.0.1:443 -s sh -b sh-port
-a -t 10.0.0.1:443 -r 10.0.0.5:443 -m -w 0
-A -f 256 -s rr
-a -f 256 -r 10.0.0.7:0 -m -w 1
-A -t icy.example.com:8000 -s rr
-a -t icy.example.com:8000 -r ny.example.com -g
"""


def test_ipvsadm_has_virtual_services_weights_and_marks(tmp_path: Path) -> None:
    text = IPVSADM.replace("10.0.0.1:http", "10.0.0.1:80")
    found = told(tmp_path, text, nodes=1)
    vip, ports, backends = found.service("vip-10-0-0-1")
    assert (vip, ports) == ("10.0.0.2", ["80/tcp", "80/udp"])  # the first address of a network is its bridge's
    assert [weight for _, _, weight in backends] == [25, 256]
    assert [weight for _, _, weight in found.service("vip-10-0-0-1-443")[2]] == [0]
    assert found.service("mark-256")[1:] == ([], [("manager1", "10.0.0.7", 1)])
    assert found.service("icy-8000")[1] == ["8000/tcp"]
    lines = [note.partition(":")[0] for note in found.notes]
    assert lines == sorted(lines, key=lambda each: int(each) if each.isdigit() else 99)
    assert {"2", "3", "5", "9", "11", "13", "14"} <= set(lines)


@pytest.mark.parametrize("layout", ["kube-chains", "kube-maps", "kube-one-map", "moby"])
def test_nft_rulesets_of_known_layouts_have_their_services(layout: str) -> None:
    """They were told by nft of what the planes kube-nftables and moby-nftables had programmed for the scenario seed."""
    found = Told(NFT / f"{layout}.json", 3)
    ports = [] if layout == "moby" else ["80/tcp", "80/udp"]
    services = {each.vip: (each.ports, sorted(task.address for task in each.tasks)) for each in found.scenario.services}
    assert services == {
        "10.0.0.2": (ports, ["10.0.0.3", "10.0.0.4", "10.0.0.5"]),
        "10.0.0.6": (ports, ["10.0.0.7"]),
    }


def test_an_element_with_a_comment_and_chains_for_the_outside(tmp_path: Path) -> None:
    def element(vip: str, chain: str) -> list[object]:
        return [{"elem": {"val": {"concat": [vip, "tcp", 80]}, "comment": "a/web"}}, {"goto": {"target": chain}}]

    services = {
        "name": "service-ips",
        "elem": [element("10.0.0.2", "service-X-a/web/tcp/"), element("1.2.3.4", "external-X")],
    }
    rule = {"chain": "service-X-a/web/tcp/", "expr": [{"dnat": {"addr": "10.0.0.9", "port": 8080}}]}
    of = {"family": "ip", "table": "kube-proxy"}
    found = told(tmp_path, json.dumps({"nftables": [{"metainfo": {}}, {"map": services | of}, {"rule": rule | of}]}))
    assert found.service("web")[:2] == ("10.0.0.2", ["80/tcp"])
    assert [note for note in found.notes if "1.2.3.4:80/tcp" in note]
    assert [note for note in found.notes if "ports are not translated" in note]


def test_more_services_than_a_lab_can_have_are_fillers(tmp_path: Path) -> None:
    lines = []
    for number in range(1500):
        vip, backend = f"10.1.{number // 250}.{number % 250 + 1}", f"10.2.{number // 250}.{number % 250 + 1}"
        lines += [f"-A -t {vip}:80 -s rr", f"-a -t {vip}:80 -r {backend}:80 -m -w 1"]
    found = told(tmp_path, "\n".join(lines))
    assert len(found.scenario.services) == 999
    assert found.scenario.filler
    assert found.scenario.filler.count == 501


REFUSED = {
    "services: {web: {deploy: {replicas: many}}}": "file:1: services.web.deploy.replicas: 'many' is not a number",
    "services:\n  web: [a]\n": "file:2: services.web: it is not a mapping",
    "services:\n  web: {}\nservices:\n  db: {}\n": "file:3: top level: 'services' is there twice (it is on line 1",
    "version: consul:\nservices: {}": "file:1: not YAML",
    "services:\n  {{ .App }}:\n    image: x\n": "file:2",
    "services: {}": "no service with a VIP has a backend",
    "a: 1": "file:1: not a file that can be imported",
    "": "file:1: not a file that can be imported",
    "services: &a {web: *a}": "file:1: the alias *a cannot be used: the value contains itself",
    "services: *a": "nothing has this anchor before it",
    "a: " + "[" * 5000: "file:1: it is nested too deeply",
    "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {ports: [{port: 0}]}": "file:4: spec.ports[0].port: '0'",
    "-A -t $VIP:80 -s rr": "file:1: '$VIP:80' is a variable of a shell",
    "-a -t 10.0.0.1:80 -r 10.0.0.2:80": "file:1: 10.0.0.1:80: no line before adds this virtual service",
    "-A -t 10.0.0.1:80 -q 3": "file:1: there is no option '-q'",
    "-A -t 10.0.0.1:no-such-port": "file:1: no port has the name",
    '{"nftables": [{"table": {"family": "ip", "name": "x"}}]}': "no table has a layout that is known",
    "services: {web: {ports: 80}}": "file:1: services.web.ports: it is not a list",
}


@pytest.mark.parametrize("text", list(REFUSED), ids=lambda text: text[:30])
def test_what_cannot_be_read_is_refused_with_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text(text)
    with pytest.raises(Usage) as caught:
        reading.imported(["file"])
    assert REFUSED[text] in str(caught.value)


def test_aliases_that_multiply_take_no_time(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x]"] + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 30)]
    found = told(tmp_path, "\n".join([*lines, "services: {web: {}, db: {}}"]))
    assert len(found.scenario.services) == 2


def test_merge_keys_that_multiply_are_refused(tmp_path: Path) -> None:
    """2,000 mappings, each with the fields of the one before it: 2 million fields in 60 kB."""
    lines = [f" a{n}: &a{n}\n  k{n}: v" + (f"\n  <<: *a{n - 1}" if n else "") for n in range(2000)]
    with pytest.raises(Usage, match="the file is too large: it has more than 1,000,000 values"):
        told(tmp_path, "\n".join(["x:", *lines, "services: {web: {}, db: {}}"]))


def test_the_command_writes_a_scenario_and_tells_the_rest(bench: Bench) -> None:
    Path("stack.yml").write_text(STACK)
    done = bench("import", "stack.yml", "-o", "mine.toml")
    assert done.exit_code == 0, done.output
    assert topology.load("mine.toml").traffic.service == "agent"
    assert "stack.yml:26: driver option encrypted: a scenario has no such option" in done.stderr
    last, then = done.stderr.splitlines()[-2:]
    assert last.startswith("mine.toml: nodes 3, networks 2, services 3, containers 6; ")
    assert then.startswith("try it: bench run --scenario mine.toml")


def test_a_scenario_that_is_too_large_is_refused_and_not_written(bench: Bench) -> None:
    Path("stack.yml").write_text("services: {web: {deploy: {replicas: 1001}}}")
    done = bench("import", "stack.yml", "-o", "mine.toml")
    assert (done.exit_code, Path("mine.toml").exists()) == (2, False)
    assert "stack.yml:1: services.web.deploy.replicas: '1001' is not a number between 0 and 1,000" in done.stderr
