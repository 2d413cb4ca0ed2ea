"""One run of Packer for a bake: what it needs is made before, and nothing of it is left after, however it ends."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bundler.domain.bake import ami_description
from bundler.domain.events import Noted
from bundler.domain.leftover import DEAD_AFTER_S, in_use
from bundler.domain.machine_image import FoundImage
from bundler.domain.packer_job import PackerJob
from bundler.errors import BundleError, ConflictError
from bundler.stages.bake.generations import Generations
from bundler.stages.bake.ports import BakeRequest, Bakery
from bundler.stages.bake.sight import Sight
from bundler.stages.bake.team import TeamSource
from bundler.transfer import to_the_end


@dataclass(frozen=True, slots=True, kw_only=True)
class Builder:
    """Builds the AMI of a request.

    Attributes:
        say: hears what people are told.
    """

    request: BakeRequest
    bakery: Bakery
    generations: Generations
    say: Callable[[str], None]

    def build(self, number: int, *, without: frozenset[str]) -> FoundImage:
        """Return the AMI of that generation, built; AMIs of a team's template among `without` do not serve."""
        try:
            made = self._sight.seen(self.bakery.packer.build(self._job(number, without)))
        except BaseException as error:
            self._clean_after(error)
            raise
        self.clean()
        return self._sight.available(made)

    def require_left_behind(self) -> None:
        """Do nothing where nobody works on this bake: our own builds cannot, for we hold their lock.

        Raises:
            ConflictError: another host does.
        """
        now = self.bakery.now()
        found = in_use(self.bakery.builders.leftovers(self.request.inputs), owner=self.bakery.owner, now=now)
        if not found:
            return
        used = found[0]
        _, _, name = used.owner.partition(" ")
        heard = f"{used}, last heard of {max(0.0, now - used.alive_at):.0f} s ago"
        raise ConflictError(
            f"AMI {self.request.subject}",
            f"is being baked by {name or used.owner} ({heard})",
            safe="Nothing of that bake was touched.",
            hint="Run the same command again when that is done: it adopts the AMI. If that build is dead, the same"
            f" command removes its remains once nothing was heard of it for {DEAD_AFTER_S / 60:.0f} minutes.",
        )

    def clean(self, why: str = "") -> None:
        """Take away what a run has left, but for what another host works with: it may have begun since."""
        found = self.bakery.builders.leftovers(self.request.inputs)
        used = in_use(found, owner=self.bakery.owner, now=self.bakery.now())
        for leftover in found:
            if leftover in used:
                continue
            if why:
                self.say(f"removing {leftover}: {why}")
            self.bakery.builders.remove(leftover)

    @property
    def _sight(self) -> Sight:
        return self.generations.sight

    def _clean_after(self, error: BaseException) -> None:
        """Take away what a build that failed has left; where that fails, too, the first error says so."""
        try:
            with to_the_end():
                self.clean()
        except BundleError as second:
            left = f"Of the build something may be left in AWS ({second}); the next run removes it."
            if isinstance(error, BundleError):
                error.safe = left
            self.bakery.emit(Noted(text=f"{self.request.subject}: {left}", warning=True))

    def _job(self, number: int, without: frozenset[str]) -> PackerJob:
        request, facts = self.request, self.generations.facts(number)
        self.bakery.packer.need()  # before gigabytes are made ready for it
        source = self._team_source(without) if request.ami.kind == "template" else request.source
        facts.parent.mkdir(parents=True, exist_ok=True)
        facts.unlink(missing_ok=True)
        payload = request.payload()
        group = request.variables.get("security_group_id") or self._group()
        self.require_left_behind()  # another host may have begun since: one of the two has made the group
        return PackerJob(
            name=request.subject,
            run=request.inputs,
            folder=request.template,
            file="template.json",
            variables={
                **request.variables,
                "security_group_id": group,
                "source_ami": source,
                "root_device": self._sight.seen(source).root_device,
                "ami_name": self.generations.name(number),
                "ami_description": ami_description(request.inputs),
                "run_tag": str(request.inputs),
                "owner": self.bakery.owner,
                "payload_dir": str(payload),
                "facts_file": str(facts),
            },
        )

    def _group(self) -> str:
        return self.bakery.builders.group(self.request.inputs, self.request.variables.get("subnet_id") or None)

    def _team_source(self, without: frozenset[str]) -> str:
        team = TeamSource(
            request=self.request, bakery=self.bakery, sight=self._sight, removal=self.generations.removal, say=self.say
        )
        return team.image(without)
