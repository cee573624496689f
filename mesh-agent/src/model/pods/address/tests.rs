use super::*;

const PLAIN: Claim = Claim {
    meshed: true,
    given_here: None,
    in_node_range: None,
    terminating: false,
    node_ready: None,
};

fn ranged(inside: bool) -> Claim {
    Claim {
        in_node_range: Some(inside),
        ..PLAIN
    }
}

fn on(ready: bool) -> Claim {
    Claim {
        node_ready: Some(ready),
        ..PLAIN
    }
}

fn given(here: bool) -> Claim {
    Claim {
        given_here: Some(here),
        ..PLAIN
    }
}

fn terminating(claim: Claim) -> Claim {
    Claim {
        terminating: true,
        ..claim
    }
}

fn unmeshed(claim: Claim) -> Claim {
    Claim {
        meshed: false,
        ..claim
    }
}

/// The place of the owner, `None` of a dispute.
fn owner(claims: &[Claim]) -> Option<usize> {
    match decide(claims) {
        Decision::Owner(owner, _) => Some(owner),
        Decision::Disputed(_) => None,
    }
}

#[test]
fn decide_prefers_the_better_claim_whatever_the_order() {
    let cases: &[(&str, &[Claim], Option<usize>)] = &[
        ("nothing is known", &[PLAIN, PLAIN], None),
        (
            "one is being deleted",
            &[PLAIN, terminating(PLAIN)],
            Some(0),
        ),
        ("both are being deleted", &[terminating(PLAIN); 2], None),
        ("one node is lost", &[on(true), on(false)], Some(0)),
        ("both nodes are lost", &[on(false), on(false)], None),
        ("one node is not known", &[PLAIN, on(false)], None),
        (
            "inside and outside of the range",
            &[ranged(true), ranged(false)],
            Some(0),
        ),
        ("a range is not known", &[PLAIN, ranged(true)], None),
        (
            "an address plugin without podCIDRs",
            &[ranged(false), ranged(false)],
            None,
        ),
        // What an intruder's kubelet claims does not come to it by the end of the true owner.
        (
            "range before deletion",
            &[terminating(ranged(true)), ranged(false)],
            Some(0),
        ),
        (
            "deletion before readiness",
            &[on(false), terminating(on(true))],
            Some(0),
        ),
        (
            "this node's own word before all",
            &[terminating(given(true)), ranged(true)],
            Some(0),
        ),
        ("this node refutes one", &[PLAIN, given(false)], Some(0)),
        ("this node gave it twice", &[given(true), given(true)], None),
        (
            "three, of which one is left",
            &[PLAIN, terminating(PLAIN), given(false)],
            Some(0),
        ),
        (
            "three, of which two are left",
            &[PLAIN, PLAIN, terminating(PLAIN)],
            None,
        ),
    ];
    for (case, claims, expected) in cases {
        assert_eq!(owner(claims), *expected, "{case}");
        let mut reversed = claims.to_vec();
        reversed.reverse();
        let expected = expected.map(|owner| claims.len() - 1 - owner);
        assert_eq!(owner(&reversed), expected, "{case}, reversed");
    }
}

#[test]
fn decide_never_prefers_an_unmeshed_pod_on_hearsay() {
    let cases: &[(&str, &[Claim], Option<usize>)] = &[
        ("deletion", &[unmeshed(PLAIN), terminating(PLAIN)], None),
        ("range", &[unmeshed(ranged(true)), ranged(false)], None),
        ("readiness", &[unmeshed(on(true)), on(false)], None),
        (
            "the meshed one is better",
            &[unmeshed(terminating(PLAIN)), PLAIN],
            Some(1),
        ),
        (
            "this node's own word",
            &[unmeshed(given(true)), PLAIN],
            Some(0),
        ),
        (
            "this node refutes the meshed one",
            &[unmeshed(PLAIN), given(false)],
            Some(0),
        ),
        (
            "none is meshed",
            &[unmeshed(PLAIN), unmeshed(terminating(PLAIN))],
            Some(0),
        ),
        (
            "a meshed one is out before",
            &[
                unmeshed(PLAIN),
                terminating(PLAIN),
                unmeshed(terminating(PLAIN)),
            ],
            None,
        ),
    ];
    for (case, claims, expected) in cases {
        assert_eq!(owner(claims), *expected, "{case}");
    }
}

#[test]
fn decide_says_why() {
    let Decision::Owner(_, why) = decide(&[ranged(true), ranged(false)]) else {
        panic!("it is not decided");
    };
    assert!(why.contains("podCIDRs"), "{why}");
    let Decision::Disputed(Some(why)) = decide(&[unmeshed(PLAIN), terminating(PLAIN)]) else {
        panic!("no reason");
    };
    assert!(why.contains("plaintext"), "{why}");
}
