"""The error tree: every failure is a fact with an exit code, and says what to do next.

Exit codes (docs/operator-guide.md): 0 done · 1 defect · 2 usage or definition · 3 refused, trust or integrity ·
4 credentials or permission · 5 network or service · 6 local disk or memory · 7 locked or conflict ·
8 target not healthy · 10 plan shows changes · 130/143 interrupted.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

KEPT = "Finished work is kept."
"""True wherever we fail: what is whole stays, and what is not whole never counts."""
UNWRITTEN = "Nothing was written."


class BundleError(Exception):
    """Base of every error this tool raises on purpose.

    Attributes:
        subject: the object that failed, as the reader knows it (a file, an image, a URL).
        cause: what is wrong with it, in one sentence.
        safe: what is already done and stays valid; a workflow that knows more says it by `keeping`.
        hint: the next command, or the thing to change.
        exit_code: what the process ends with.
        title: what an error of this class is called, in front of `subject`.
    """

    exit_code = 1
    title = "Defect in this tool"
    safe: str = KEPT
    hint: str = "Run the same command again."

    def __init__(self, subject: str, cause: str, *, safe: str | None = None, hint: str | None = None) -> None:
        super().__init__(subject, cause)
        self.subject = subject
        self.cause = cause
        if safe is not None:
            self.safe = safe
        if hint is not None:
            self.hint = hint

    def __str__(self) -> str:
        return f"{self.subject}: {self.cause}"

    def assure(self, safe: str) -> None:
        """Say what is safe where it was raised by somebody who could not know."""
        if "safe" not in vars(self):
            self.safe = safe


@contextmanager
def keeping(safe: str) -> Iterator[None]:
    """Let errors say what is safe at this point of a workflow; one that says so itself is left alone."""
    try:
        yield
    except BundleError as error:
        error.assure(safe)
        raise


class UsageError(BundleError):
    """The command line or the environment asks for something impossible (exit 2)."""

    exit_code = 2
    title = "Usage error"
    safe = UNWRITTEN
    hint = "Correct what is named, then run the same command again; --help shows what it takes."


class DefinitionError(BundleError):
    """A file that a person wrote is wrong; `subject` is file:line:column (exit 2)."""

    exit_code = 2
    title = "Definition error"
    safe = UNWRITTEN
    hint = "Correct the file, then run the same command again."


class NotFoundUpstreamError(BundleError):
    """Upstream answered that a tag, image, platform, chart or file does not exist (exit 2)."""

    exit_code = 2
    title = "Not found upstream"
    hint = "Correct the name in the definition, then run the same command again."


class LockChangedError(BundleError):
    """What the lock pins and what upstream offers differ, and nobody agreed to the change (exit 2)."""

    exit_code = 2
    title = "Lock error"
    hint = "Review the difference; to accept it: bundle lock --update"


class ClosureError(BundleError):
    """The rendered charts need an image that the bundle does not hold (exit 2)."""

    exit_code = 2
    title = "Closure error"
    hint = "Give the image in the definition (values, or images with a reason), then: bundle lock; bundle build"


class RefusedError(BundleError):
    """Base of trust and integrity refusals (exit 3); nothing refused is ever used.

    Attributes:
        span: first byte of the archive that is wrong, and the one after the last, where that is known.
    """

    span: tuple[int, int] | None = None
    exit_code = 3
    title = "Refused"
    safe = "Nothing of it was used."
    hint = "Get it again from where it comes from; where that changes nothing, ask who made it."

    def assure(self, safe: str) -> None:
        """Add what is safe besides: that nothing of it was used stays said."""
        super().assure(f"{self.safe} {safe}")


class FormatError(RefusedError):
    """Bytes that are not what the format allows."""

    title = "Format error"


class DigestError(RefusedError):
    """Content does not have the digest or the size that names it."""

    title = "Digest error"


class SignatureError(RefusedError):
    """No valid signature by a trusted key."""

    title = "Signature error"


class UntrustedError(RefusedError):
    """No trust root has been accepted here."""

    title = "Trust error"
    safe = "Nothing of the bundle was used."


class LimitError(RefusedError):
    """Something from outside is larger than any honest one."""

    title = "Limit error"


class PolicyError(RefusedError):
    """Well-formed, but not allowed."""

    title = "Policy error"


class AccessError(BundleError):
    """Credentials are missing, expired or not sufficient (exit 4)."""

    exit_code = 4
    title = "Access error"
    hint = "Check credentials and permissions, then run the same command again."


class NetworkError(BundleError):
    """A network or service failed and may work later (exit 5).

    Attributes:
        unreachable: nothing answered there, and no proxy stood in between: a route or an endpoint is missing.
        busy: the service was reached, and had no time however often it was asked.
    """

    unreachable: bool = False
    busy: bool = False
    exit_code = 5
    title = "Network error"
    hint = "Run the same command again."


class TransientError(NetworkError):
    """The one class that adapters retry.

    Attributes:
        retry_after_s: seconds the far side asked us to wait, None where it did not.
        answered: the far side has been reached and says "later".
    """

    retry_after_s: float | None = None
    answered: bool = False


class MissingBlobError(NetworkError):
    """The registry says that a manifest names a blob or manifest it does not hold (any more): send that again."""


class LocalResourceError(BundleError):
    """Disk, memory or file system on this host (exit 6)."""

    exit_code = 6
    title = "Local error"
    hint = "Make room, or mend what is named, then run the same command again."


class UnreadableError(LocalResourceError):
    """A disk or medium does not give back bytes that a file has (exit 6)."""

    hint = "Its medium is damaged: copy it across again; or mend it: bundle repair ARCHIVE --from COPY"


class MissingToolError(LocalResourceError):
    """A program that this step runs is not installed (exit 6)."""

    title = "Missing program"
    hint = "Install it, then run the same command again."


class ProgramError(LocalResourceError):
    """A program that this step runs failed, or did not end in time (exit 6); adapters that know more translate it."""

    title = "Program failed"
    hint = "Look at what it says, then run the same command again."


class PackerError(ProgramError):
    """Packer built no image (exit 6): a provisioner failed, or AWS refused something."""

    title = "Packer failed"
    safe = "Packer removed what it had made for the build."


class ConflictError(BundleError):
    """Another operator, or a resource that is not ours or must not be created (exit 7)."""

    exit_code = 7
    title = "Conflict"
    hint = "Settle it with whoever made what is named, then run the same command again."


class RejectedError(ConflictError):
    """A service understood the request and declines it.

    Attributes:
        code: the service's own word for why (`RepositoryNotFoundException`, `InvalidAMIID.NotFound`).
    """

    title = "Rejected"
    code: str = ""


class LockedError(ConflictError):
    """Another operator holds the lock of this site."""

    title = "Locked"
    safe = UNWRITTEN


class StaleStateError(ConflictError):
    """State in S3 is not the version any more that was to be replaced: somebody else wrote it."""


class LockLostError(ConflictError):
    """The lock was ours and is not any more: nothing else may be written."""

    title = "Lock lost"
    hint = "Look who works on the site (bundle status), then run the same command again."


class MissingRepositoryError(ConflictError):
    """The registry has no such repository and does not make one on push, as ECR does (exit 7)."""

    hint = "Make the repository (aws ecr create-repository), or let bundle install make it; then run this again."


class AbsentContentError(ConflictError):
    """A delta needs of the site what is not there (exit 7)."""

    title = "Not at the site"
    safe = UNWRITTEN


class ImmutableTagError(ConflictError):
    """The tag may not be overwritten there and names another digest (exit 7)."""

    hint = "Push below another prefix; bundle install puts a tag of its own beside the one that is taken."


class TargetError(BundleError):
    """The cluster or a resource did not become healthy in time (exit 8)."""

    exit_code = 8
    title = "Not healthy"
    hint = "Mend what is named, then run the same command again."


class InterruptedByUserError(BundleError):
    """Ctrl-C or SIGTERM; state is kept (exit 130 or 143)."""

    exit_code = 130
    title = "Interrupted"


class StoppedError(InterruptedByUserError):
    """This piece of work was called off because another one failed or the user asked; the other error is shown."""


class FindingsError(BundleError):
    """Several checks failed; the exit code is that of the worst of them."""

    title = "Checks failed"
    safe = UNWRITTEN
    hint = "Mend these, then run the same command again."

    def __init__(self, subject: str, cause: str, *, exit_code: int) -> None:
        super().__init__(subject, cause)
        self.exit_code = exit_code


class PlanHasChangesError(BundleError):
    """`--plan --exit-code` found work to do (exit 10)."""

    exit_code = 10
    title = "Changes pending"
    safe = UNWRITTEN
    hint = "To make them, run the same command without --plan and --exit-code."
