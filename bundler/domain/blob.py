"""A blob of the archive's pool, as the lock names it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import Field, GetCoreSchemaHandler, create_model
from pydantic_core import CoreSchema, core_schema

from bundler.domain.digest import Digest
from bundler.domain.oci import MAX_BLOB_BYTES, Descriptor
from bundler.domain.schema import Built, Line, Sha256


@dataclass(frozen=True, slots=True, kw_only=True)
class Blob:
    """Media type, digest and size (bytes) of content in the archive's pool.

    A lock may name a hundred thousand, so it is no model; as a field of one it is checked and written as one.
    """

    media_type: str
    digest: Digest
    size: int

    @classmethod
    def of(cls, descriptor: Descriptor) -> Blob:
        """The same as a lock entry."""
        return cls(media_type=descriptor.media_type, digest=descriptor.digest, size=descriptor.size)

    @property
    def descriptor(self) -> Descriptor:
        """The same as an OCI descriptor."""
        return Descriptor(media_type=self.media_type, digest=self.digest, size=self.size)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Return what a model that has this as a field checks and writes."""
        del source
        fields = handler(_FIELDS)

        def checked(value: object, check: core_schema.ValidatorFunctionWrapHandler) -> Blob:
            if isinstance(value, cls):
                return value
            found = check(value)
            return cls(media_type=found.media_type, digest=found.digest, size=found.size)

        def written(blob: Blob) -> Built:
            return _FIELDS.model_construct(media_type=blob.media_type, digest=blob.digest, size=blob.size)

        spelled = core_schema.plain_serializer_function_ser_schema(written, return_schema=fields)
        return core_schema.no_info_wrap_validator_function(checked, fields, serialization=spelled)


_FIELDS = create_model(
    "Blob",
    __base__=Built,
    __doc__="Media type, digest and size (bytes) of content in the archive's pool.",
    media_type=(Line, ...),
    digest=(Sha256, ...),
    size=(int, Field(ge=0, le=MAX_BLOB_BYTES, strict=True)),
)
