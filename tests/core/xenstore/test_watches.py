"""Who hears of what."""

from core.xenstore.conversation import Conversation


def watching(*watches: tuple[str, str]) -> Conversation:
    """Return a store with watches, whose first events have been heard."""
    store = Conversation()
    for who, watch in watches:
        store.says((who, f"WATCH {watch}", "OK|"))
        assert store.events(who) == [watch]  # the first event says that the watch is there
    return store


def test_a_watch_hears_of_all_at_and_below_its_path() -> None:
    store = watching(("dom0", "/a|t|"))
    for path in ("/a", "/a/b", "/a/b/c", "/ab", "/b"):
        store.says(("dom0", f"WRITE {path}|1", "OK|"))
    assert store.events("dom0") == ["/a|t|", "/a/b|t|", "/a/b/c|t|"]


def test_a_watch_on_the_root_hears_of_all() -> None:
    store = watching(("dom0", "/|t|"))
    store.says(("dom0", "WRITE /a|1", "OK|"), ("dom0", "WRITE /|1", "OK|"))
    assert store.events("dom0") == ["/a|t|", "/|t|"]


def test_each_kind_of_change_is_one_event() -> None:
    store = watching(("dom0", "/a|t|"))
    store.says(
        ("dom0", "WRITE /a/b/c/d|1", "OK|"),  # and what was made above it is not
        ("dom0", "MKDIR /a/b|", "OK|"),  # is there: no event
        ("dom0", "SET_PERMS /a/b|n1|", "OK|"),
        ("dom0", "WRITE /a/b/c/d|1", "OK|"),  # the same value: an event
        ("dom0", "RM /a/b/x|", "OK|"),  # is not there: no event
        ("dom0", "RM /a/b|", "OK|"),
        ("dom0", "READ /a|", ""),
    )
    assert store.events("dom0") == ["/a/b/c/d|t|", "/a/b|t|", "/a/b/c/d|t|", "/a/b|t|"]


def test_who_watches_what_was_below_hears_of_its_own_node() -> None:
    store = watching(("dom0", "/a/b/c|t|"), ("dom0b", "/a/x|t|"), ("dom0c", "/a|t|"))
    store.says(("dom0", "WRITE /a/b/c/d|1", "OK|"))
    assert store.events("dom0") == ["/a/b/c/d|t|"]
    assert store.events("dom0c") == ["/a/b/c/d|t|"]
    store.says(("dom0", "RM /a|", "OK|"))
    assert store.events("dom0") == ["/a/b/c|t|"]
    assert store.events("dom0b") == []  # was never there
    assert store.events("dom0c") == ["/a|t|"]


def test_who_watches_what_has_a_like_name_does_not_hear() -> None:
    paths = ["/a", "/a-", "/a-/b", "/a/b", "/a/b-c", "/a/b/c", "/a0", "/aa/b"]
    store = watching(*[("dom0b", f"{path}|t|") for path in paths])
    for path in paths:
        store.says(("dom0", f"WRITE {path}|", "OK|"))
    store.events("dom0b")
    store.says(("dom0", "RM /a/b|", "OK|"))
    assert store.events("dom0b") == ["/a/b|t|", "/a/b|t|", "/a/b/c|t|"]
    store.says(("dom0b", "UNWATCH /a/b|t|", "OK|"), ("dom0", "RM /a|", "OK|"))
    assert store.events("dom0b") == ["/a|t|", "/a/b-c|t|"]


def test_a_transaction_is_heard_at_its_end_each_path_once() -> None:
    store = watching(("dom0b", "/a|t|"))
    store.says(
        ("dom0 t", "TRANSACTION_START |", ...),
        ("dom0 t", "WRITE /a/b|1", "OK|"),
        ("dom0 t", "WRITE /a/c|1", "OK|"),
        ("dom0 t", "WRITE /a/b|2", "OK|"),
    )
    assert store.events("dom0b") == []
    store.says(("dom0 t", "TRANSACTION_END T|", "OK|"))
    assert store.events("dom0b") == ["/a/b|t|", "/a/c|t|"]
    store.says(
        ("dom0 t", "TRANSACTION_START |", ...),
        ("dom0 t", "WRITE /a/b|1", "OK|"),
        ("dom0 t", "TRANSACTION_END F|", "OK|"),
    )
    assert store.events("dom0b") == []


def test_what_a_transaction_removes_and_makes_anew_is_heard_of_below_it() -> None:
    store = watching(("dom0b", "/a/gone|t|"), ("dom0b", "/a/back|t|"), ("dom0c", "/a|t|"))
    store.says(("dom0", "WRITE /a/gone|", "OK|"), ("dom0", "WRITE /a/back|", "OK|"))
    for who in ("dom0b", "dom0c"):
        store.events(who)
    store.says(
        ("dom0 t", "TRANSACTION_START |", ...),
        ("dom0 t", "RM /a|", "OK|"),
        ("dom0 t", "WRITE /a/back|1", "OK|"),
        ("dom0 t", "RM /a|", "OK|"),
        ("dom0 t", "WRITE /a|1", "OK|"),
        ("dom0 t", "WRITE /a/back|2", "OK|"),
        ("dom0 t", "TRANSACTION_END T|", "OK|"),
    )
    assert sorted(store.events("dom0b")) == ["/a/back|t|", "/a/gone|t|"]
    assert store.events("dom0c") == ["/a|t|", "/a/back|t|"]


def test_a_relative_watch_hears_relative_paths() -> None:
    store = watching(("1", "data|t|"))
    store.says(
        ("dom0", "WRITE /local/domain/1/data|", "OK|"),
        ("dom0", "SET_PERMS /local/domain/1/data|n1|", "OK|"),
        ("1", "WRITE data/x|1", "OK|"),
    )
    assert store.events("1")[-1] == "data/x|t|"


def test_several_watches_of_one_path() -> None:
    store = watching(("dom0", "/a|one|"), ("dom0", "/a|two|"), ("dom0b", "/a|one|"))
    store.says(("dom0", "WRITE /a|1", "OK|"))
    assert store.events("dom0") == ["/a|one|", "/a|two|"]
    assert store.events("dom0b") == ["/a|one|"]
    store.says(("dom0", "UNWATCH /a|one|", "OK|"), ("dom0", "WRITE /a|1", "OK|"))
    assert store.events("dom0") == ["/a|two|"]


def test_who_may_not_read_does_not_hear() -> None:
    """As since XSA-115: it hears who can read the node, before or after, or list its parent."""
    store = watching(("1", "/|t|"), ("2", "/|t|"))
    store.says(
        ("dom0", "WRITE /a/b|1", "OK|"),
        ("dom0", "SET_PERMS /a/b|n0|r1|", "OK|"),
    )
    assert store.events("1") == ["/a/b|t|"]
    store.says(("dom0", "SET_PERMS /a/b|n0|r2|", "OK|"))
    assert store.events("1") == ["/a/b|t|"]  # could until now
    assert store.events("2") == ["/a/b|t|"]
    store.says(("dom0", "WRITE /a/b|2", "OK|"))
    assert store.events("1") == []
    assert store.events("2") == ["/a/b|t|"]
    store.says(("dom0", "SET_PERMS /a|n0|r1|", "OK|"), ("dom0", "RM /a/b|", "OK|"))
    assert store.events("1") == ["/a|t|", "/a/b|t|"]
    store.says(("dom0", "WRITE /a/x/y|1", "OK|"), ("dom0", "RM /a|", "OK|"))
    assert store.events("1") == ["/a/x/y|t|", "/a|t|"]


def test_what_was_below_what_is_removed_is_told_to_who_might_read_it() -> None:
    store = watching(("1", "/a/b/c|t|"), ("2", "/a/b/c|t|"))
    store.says(
        ("dom0", "WRITE /a/b/c|1", "OK|"),
        ("dom0", "SET_PERMS /a/b/c|n0|r1|", "OK|"),
        ("dom0", "RM /a|", "OK|"),
    )
    assert store.events("1")[-1] == "/a/b/c|t|"
    assert store.events("2") == []


def test_domains_come_and_go() -> None:
    store = watching(("dom0", "@introduceDomain|i|"), ("dom0", "@releaseDomain|r|"))
    store.says(("dom0", "INTRODUCE 3|1|1|", "OK|"))
    assert store.events("dom0") == ["@introduceDomain|i|"]
    store.says(("dom0", "INTRODUCE 3|1|1|", "OK|"))
    assert store.events("dom0") == ["@introduceDomain|i|"]
    store.says(("dom0", "RELEASE 3|", "OK|"))
    assert store.events("dom0") == ["@releaseDomain|r|"]


def test_who_may_watch_for_domains() -> None:
    store = Conversation()
    store.says(
        ("1", "WATCH @releaseDomain|r|", "!EACCES"),
        ("1", "GET_PERMS @releaseDomain|", "!EACCES"),
        ("dom0", "GET_PERMS @releaseDomain|", "n0|"),
        ("dom0", "GET_PERMS @other|", "!EINVAL"),
        ("dom0", "WRITE @releaseDomain|", "!EINVAL"),
        ("dom0", "SET_PERMS @releaseDomain|n0|r1|", "OK|"),
        ("dom0", "GET_PERMS @releaseDomain|", "n0|r1|"),
        ("1", "WATCH @releaseDomain|r|", "OK|"),
        ("2", "WATCH @releaseDomain|r|", "!EACCES"),
        ("1", "SET_PERMS @releaseDomain|n1|", "!EACCES"),
    )
    store.events("1")
    store.says(("dom0", "INTRODUCE 3|1|1|", "OK|"), ("dom0", "RELEASE 3|", "OK|"))
    assert store.events("1") == ["@releaseDomain|r|"]


def test_an_event_that_is_too_long_for_a_message_is_not_sent() -> None:
    token = "t" * 2000
    store = watching(("dom0", f"/a|{token}|"))
    path = "/a/" + "x" * 2500
    store.says(("dom0", f"WRITE {path}|1", "OK|"))
    assert store.events("dom0") == []
    store.says(("dom0", "WRITE /a/b|1", "OK|"))
    assert store.events("dom0") == [f"/a/b|{token}|"]


def test_who_is_gone_is_told_nothing() -> None:
    store = watching(("dom0", "/a|t|"), ("dom0b", "/a|t|"))
    store.server.disconnect(store.client("dom0b"))
    assert len(store.server.store.watches.by_path) == 1
    store.says(("dom0", "WRITE /a|1", "OK|"))
    assert store.events("dom0") == ["/a|t|"]


def test_who_may_no_more_watch_a_special_path_hears_nothing_more() -> None:
    store = Conversation()
    store.says(
        ("dom0", "SET_PERMS @introduceDomain|n0|r1|", "OK|"),
        ("1", "WATCH @introduceDomain|t|", "OK|"),
        ("dom0", "INTRODUCE 2|1|1|", "OK|"),
    )
    assert store.events("1") == ["@introduceDomain|t|"] * 2
    store.says(
        ("dom0", "SET_PERMS @introduceDomain|n0|", "OK|"),
        ("dom0", "INTRODUCE 3|1|1|", "OK|"),
    )
    assert store.events("1") == []
