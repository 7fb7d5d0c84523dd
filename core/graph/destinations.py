"""Destinations: where graphs may go. Asked before anything is computed; the transfer itself checks again.

Deliberately not here: transfers (`core.graph.upload`, `core.graph.s3`).
"""

from dataclasses import dataclass

from core.graph.requests import Delivery
from core.graph.s3 import S3Store
from core.outbound_urls import UrlPolicy


@dataclass(frozen=True, slots=True)
class Destinations:
    """What an operator allows.

    Attributes:
        urls: Which signed URLs may be called.
        store: Which buckets may be written to.
    """

    urls: UrlPolicy
    store: S3Store

    def check(self, delivery: Delivery) -> None:
        """Refuses a place that graphs may not go to.

        Raises:
            UrlRefused: So it is.
        """
        if delivery.signed_url is not None:
            self.urls.check(delivery.signed_url)
        if delivery.destination is not None:
            self.store.check(delivery.destination)
