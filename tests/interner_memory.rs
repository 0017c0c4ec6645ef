//! The limit on label sets that are made and never entered. It runs in its own process, because they are never freed.

use dualstack_metrics::{ClientScopes, MAX_LABEL_SETS, Protocol, Scope, ServerBinding, scope::overflows};

fn server(port: u16) -> Scope {
    Scope::for_server(&ServerBinding::new(Protocol::Udp, ([192, 0, 2, 1], port).into()))
}

#[test]
fn sets_that_are_not_entered_have_a_limit_too() {
    let first = server(1);
    let made = (1..=u16::MAX)
        .take_while(|&port| server(port) != Scope::none())
        .count();
    assert_eq!(made, 4 * MAX_LABEL_SETS);
    assert_eq!(overflows(), 1);

    // No new set can be made, although no place is taken.
    let binding = ServerBinding::unix(Protocol::Udp);
    assert!(ClientScopes::try_new(binding).is_err());
    assert_eq!(first.run(|| Scope::for_server(&binding)), first);
    assert_eq!(overflows(), 2);
    // The sets that exist can be entered, until all places are taken.
    let entered = (1..=u16::try_from(made).unwrap())
        .take_while(|&port| {
            let scope = server(port);
            scope != Scope::none() && scope.run(Scope::current) == scope
        })
        .count();
    assert_eq!(entered, MAX_LABEL_SETS);
    assert_eq!(overflows(), 3);
    assert_eq!(first.run(Scope::current), first);
}
