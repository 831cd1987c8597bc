"""The table of URLs of payments."""

from api import payments
from api.errors import NoticeUnsigned, RouteNotFound
from api.route import Reply, Route

PAYMENT_ROUTES: tuple[Route, ...] = (
    Route(
        method="POST",
        path="/v1/payments/webhooks/{provider}",
        handler=payments.receive_notice,
        summary="Webhooks of a payment provider, which signs them",
        tag="Payments",
        body_max=payments.NOTICE_MAX,
        takes_bytes=True,
        replies=(Reply(202, "It is written down, or was before.", payments.Received),),
        refusals=(NoticeUnsigned, RouteNotFound),
    ),
)
