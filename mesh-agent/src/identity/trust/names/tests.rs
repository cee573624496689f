//! Which DNS names in certificates prove which workloads.

use super::*;
use crate::identity::fixtures::id;

fn proofs() -> NameProofs {
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    NameProofs::new(vec![
        (id("db"), names(&["db.apps.local", "DB.Shop.svc."])),
        (id("web"), names(&["web.apps.local"])),
        (id("web"), names(&["www.example.org", "web.apps.local"])),
        (id("odd"), names(&["*.odd.local", "", "single"])),
    ])
}

#[test]
fn a_presented_name_stands_for_hosts_as_in_rfc_6125() {
    let table = [
        ("db.apps.local", "db.apps.local", true),
        ("DB.apps.LOCAL", "db.Apps.local", true),
        ("db.apps.local.", "db.apps.local", true),
        ("*.apps.local", "db.apps.local", true),
        ("*.APPS.local", "db.apps.local", true),
        // One label, the whole of it, and the left-most only.
        ("*.apps.local", "a.db.apps.local", false),
        ("*.apps.local", "apps.local", false),
        ("*.apps.local", ".apps.local", false),
        ("*.local", "db.apps.local", false),
        ("d*.apps.local", "db.apps.local", false),
        ("*b.apps.local", "db.apps.local", false),
        ("db.*.local", "db.apps.local", false),
        ("*.*.local", "db.apps.local", false),
        ("*", "db", false),
        ("*", "db.apps.local", false),
        ("*.", "db.", false),
        ("", "", false),
        ("db.apps.local", "web.apps.local", false),
        ("xdb.apps.local", "db.apps.local", false),
        // A configured wild card is no host.
        ("*.apps.local", "*.apps.local", false),
    ];
    for (presented, name, expected) in table {
        assert_eq!(matches(presented, name), expected, "{presented} for {name}");
    }
}

#[test]
fn names_are_looked_up_as_they_are_compared() {
    let proofs = proofs();
    assert_eq!(proofs.names(&id("db")), ["db.apps.local", "db.shop.svc"]);
    assert_eq!(
        proofs.names(&id("web")),
        ["web.apps.local", "www.example.org"]
    );
    assert_eq!(proofs.names(&id("odd")), ["single"]);
    let table: [(&[&str], &[&str]); 9] = [
        (&["db.apps.local"], &["db"]),
        (&["Db.SHOP.svc"], &["db"]),
        (&["db.apps.local", "db.shop.svc"], &["db"]),
        (&["*.example.org"], &["web"]),
        (&["*.apps.local"], &["db", "web"]),
        (&["db.apps.local", "www.example.org"], &["db", "web"]),
        (&["*.odd.local", "x.odd.local"], &[]),
        (&["elsewhere.local", "single"], &["odd"]),
        (&[], &[]),
    ];
    for (presented, holders) in table {
        let holders: Vec<_> = holders.iter().map(|account| id(account)).collect();
        assert_eq!(proofs.holders(presented), holders, "{presented:?}");
        for holder in ["db", "web", "odd"].map(id) {
            let proven = presented.iter().any(|name| proofs.prove(&holder, name));
            assert_eq!(proven, holders.contains(&holder), "{presented:?}, {holder}");
        }
    }
}
