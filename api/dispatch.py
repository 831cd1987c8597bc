"""From a method and a path to a route: one look-up per segment, whatever the number of routes.

Starlette's router tries a regular expression per route. Here all templates consist of whole segments, so a tree of
dictionaries will do, and ``/v1/bookings/upcoming`` wins over ``/v1/bookings/{booking_id}`` wherever it stands.
"""

from collections.abc import Iterable

from api.errors import MethodNotAllowed, RouteNotFound
from api.route import Route

REMEMBERED_MAX = 2_000  # paths, some 500 bytes each; then it begins anew
REMEMBERED_LENGTH_MAX = 150  # of a path: longer ones are nobody's event


class _Node:
    __slots__ = ("children", "methods", "wildcard")

    def __init__(self) -> None:
        self.children: dict[str, _Node] = {}
        self.wildcard: _Node | None = None
        self.methods: dict[str, tuple[Route, tuple[str, ...]]] = {}


class RouteTable:
    """All routes, ready for dispatch; ``HEAD`` is answered wherever ``GET`` is.

    Where a crowd goes is remembered: thousands ask for the same event.
    """

    def __init__(self, routes: Iterable[Route]) -> None:
        self._root = _Node()
        self._found: dict[tuple[str, str], tuple[Route, dict[str, str]]] = {}
        for route in routes:
            self._add(route)

    def find(self, method: str, path: str) -> tuple[Route, dict[str, str]]:
        """The route and what stands in its braces.

        Raises:
            RouteNotFound: Nothing is under *path*.
            MethodNotAllowed: Something is, but not for *method*.
        """
        found = self._found.get((method, path))
        if found is None:
            found = self._look_up(method, path)
            if len(path) <= REMEMBERED_LENGTH_MAX:
                if len(self._found) >= REMEMBERED_MAX:
                    self._found.clear()
                self._found[method, path] = found
        return found

    def _look_up(self, method: str, path: str) -> tuple[Route, dict[str, str]]:
        node = self._root
        values = []
        for segment in path.split("/"):
            if (child := node.children.get(segment)) is None:
                child = node.wildcard
                if child is None or not segment or "\0" in segment:
                    raise RouteNotFound
                values.append(segment)
            node = child
        if (found := node.methods.get(method)) is None:
            if not node.methods:
                raise RouteNotFound
            raise MethodNotAllowed(tuple(node.methods))
        route, names = found
        return route, dict(zip(names, values, strict=True))

    def _add(self, route: Route) -> None:
        node = self._root
        for segment in route.path.split("/"):
            if segment.startswith("{"):
                node.wildcard = node.wildcard or _Node()
                node = node.wildcard
            else:
                node = node.children.setdefault(segment, _Node())
        assert route.method not in node.methods, f"{route.method} {route.path} is there twice"
        node.methods[route.method] = (route, route.param_names)
        if route.method == "GET":
            node.methods["HEAD"] = (route, route.param_names)
