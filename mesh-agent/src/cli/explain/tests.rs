//! The grammar of `explain`, and its answer letter for letter.

use clap::Parser;

use super::*;
use crate::cli::{Cli, Command, Tool};
use crate::explain::{Asked, Explanation, Happened, Mode, Nearest, Question, Side, Verdict, Way};

fn question(words: &str) -> Result<Question, String> {
    let words = std::iter::once("mesh-agent").chain(words.split(' '));
    let cli = Cli::try_parse_from(words).map_err(|error| error.to_string())?;
    let Command::Tool(tool) = cli.command else {
        panic!("{cli:?}");
    };
    match *tool {
        Tool::Explain(args) => args.question().map_err(|error| error.to_string()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn one_of_two_questions_is_asked() {
    for words in [
        "explain 0000000100000002",
        "explain --from shop/web --to shop/db --port 80",
        "explain --from shop/web --to 10.0.0.1:80 -o json",
    ] {
        assert!(question(words).is_ok(), "{words}");
    }
    for words in [
        "explain",
        "explain --from shop/web",
        "explain --to shop/web",
        "explain 0000000100000002 --from shop/web --to shop/db",
        "explain 0000000100000002 --port 80",
        "explain nonsense",
        "explain --from web --to shop/db",
    ] {
        assert!(question(words).is_err(), "{words}");
    }
}

fn refused() -> Explanation {
    let nearest = Nearest {
        policy: "shop/db".into(),
        rule: Some(1),
        field: "to[0].operation.ports".into(),
        seen: "22".into(),
        wanted: "one of [5432]".into(),
    };
    let side = Side {
        reason: Some("POLICY_NO_ALLOW".into()),
        detail: "no ALLOW policy matched".into(),
        cure: Some("allow the client".into()),
        nearest: Some(nearest),
        dry_run: vec!["deny by shop/trial spec.rules[0]".into()],
        ..Side::default()
    };
    Explanation {
        happened: None,
        verdict: Verdict::Denied,
        asked: Asked {
            pod: Some("shop/web".into()),
            identity: Some("spiffe://cluster.local/ns/shop/sa/web".into()),
            no_identity: None,
            destination: "10.0.0.2:22".into(),
        },
        route: "pod shop/db".into(),
        ways: vec![Way {
            pod: Some("shop/db".into()),
            address: "10.0.0.2:22".into(),
            identity: Some("spiffe://cluster.local/ns/shop/sa/db".into()),
            transport: Some("mutual_tls".into()),
            mode: Some(Mode {
                mode: "STRICT".into(),
                from: "PeerAuthentication shop/db".into(),
            }),
            network: vec!["NetworkPolicy shop/only-5432 allows no TCP to port 15008".into()],
            source: None,
            destination: Some(side),
        }],
        generation: 7,
        complete: true,
    }
}

#[test]
fn a_refusal_is_told_in_full() {
    assert_eq!(
        render::render(&refused()),
        "\
verdict       DENIED
from          shop/web
  identity    spiffe://cluster.local/ns/shop/sa/web
to            10.0.0.2:22, pod shop/db
  reaches     10.0.0.2:22, shop/db
  by          mutual_tls
  expects     spiffe://cluster.local/ns/shop/sa/db
  mode        STRICT by PeerAuthentication shop/db
  network     NetworkPolicy shop/only-5432 allows no TCP to port 15008
  source      no agent is asked
  destination DENIED, POLICY_NO_ALLOW
    why       no ALLOW policy matched
    nearest   shop/db spec.rules[1]: to[0].operation.ports wants one of [5432] and saw 22
    dry run   deny by shop/trial spec.rules[0]
    cure      allow the client
configuration generation 7
"
    );
}

#[test]
fn what_happened_comes_first_and_moves_no_cursor() {
    let happened = Happened {
        id: "0000000100000002".into(),
        direction: "inbound".into(),
        pod: "shop/db".into(),
        source: "10.0.0.9:4000".into(),
        destination: "10.0.0.2:22".into(),
        outcome: "denied".into(),
        reason: Some("POLICY_DENIED".into()),
        meaning: Some("A rule matched.".into()),
        cure: None,
        policy: Some("shop/no".into()),
        rule: Some(0),
        detail: Some("\u{1b}[2J".into()),
        nearest: None,
        audited: vec![],
        dry_run: vec![],
    };
    let shown = render::render(&Explanation {
        happened: Some(happened),
        ..refused()
    });
    let expected = "\
connection    0000000100000002, inbound of shop/db
  addresses   10.0.0.9:4000 -> 10.0.0.2:22
  outcome     denied, POLICY_DENIED
  meaning     A rule matched.
  policy      shop/no spec.rules[0]
  detail      \u{fffd}[2J

by the policies in force now
verdict       DENIED
";
    assert!(shown.starts_with(expected), "{shown}");
}
