"""The lab's EKS cluster: a real control plane, EKS's token check before it, and nodes that join as theirs would."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bundler.domain.reference import Reference
from bundler.errors import FormatError
from bundler.lab.eks_tokens import AccessEntry, Cluster, TokenReviewServer
from bundler.lab.instances import instance_name, running_instances
from bundler.lab.kubernetes import ControlPlane, KubernetesFacts
from bundler.lab.nodes import NodeAgent, Surroundings
from bundler.lab.place import Place
from bundler.lab.registry_store import RegistryStore

NODES_LOG = "nodes.log"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterOptions:
    """What the lab's cluster is.

    Attributes:
        name: as EKS knows it.
        state: folder of data, keys and logs.
        assets: folder of the programs (KUBEBUILDER_ASSETS).
        aws_url: where STS answers.
    """

    name: str
    state: Path
    assets: Path
    aws_url: str


class LabCluster:
    """Control plane, token check and node agent as one; needs moto in this process, already corrected."""

    def __init__(self, place: Place, options: ClusterOptions, *, image_exists: Callable[[str], bool]) -> None:
        """Prepare a cluster.

        Args:
            place: the account and Region that it is in.
            options: what it is.
            image_exists: whether the private registry holds what an image reference names; see `holds_image`.
        """
        self._place = place
        self._options = options
        self._image_exists = image_exists
        self._tokens = TokenReviewServer(
            Cluster(
                name=options.name,
                sts_host=place.sts_host,
                aws_url=options.aws_url,
                entries=self.entries,
                node_name=lambda instance: instance_name(place, instance),
            )
        )
        self._plane: ControlPlane | None = None
        self._agent: NodeAgent | None = None

    def start(self) -> KubernetesFacts:
        """Start everything and wait until the API is ready.

        Raises:
            MissingToolError: a program is not in the assets folder.
            TargetError: a part was not ready in time.
        """
        options = self._options
        webhook = self._tokens.start()
        self._plane = ControlPlane(state=options.state, assets=options.assets, token_webhook_url=webhook)
        try:
            facts = self._plane.start()
        except BaseException:
            self.stop()
            raise
        around = Surroundings(
            instances=lambda: running_instances(self._place), entries=self.entries, image_exists=self._image_exists
        )
        self._agent = NodeAgent(options.name, facts, around, log=options.state / NODES_LOG)
        self._agent.start()
        return facts

    def stop(self) -> None:
        """End everything."""
        if self._agent is not None:
            self._agent.stop()
        if self._plane is not None:
            self._plane.stop()
        self._tokens.stop()

    def entries(self) -> list[AccessEntry]:
        """Return the cluster's access entries as they are now."""
        from bundler.lab.moto_eks import LabEksResponse

        known = list(LabEksResponse.entries.items())
        return [entry for (cluster, _), entry in known if cluster == self._options.name]


def holds_image(store: RegistryStore, host: str, reference: str) -> bool:
    """Whether the registry called `host` holds the image: by digest where the reference has one, else by tag."""
    try:
        wanted = Reference.parse(reference)
    except FormatError:
        return False
    if wanted.registry != host:
        return False
    key = wanted.tag if wanted.digest is None else wanted.digest.text
    with store.lock:
        repository = store.repositories.get(wanted.repository)
        return repository is not None and key is not None and repository.find(key) is not None
