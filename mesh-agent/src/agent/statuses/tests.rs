use std::path::Path;

use super::*;
use crate::config::read_objects;
use crate::model::{Origin, build};

/// Two pods of node `here`, one of another, one outside the mesh.
const PODS: &str = "
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, uid: uid-web, labels: {isthmus.dev/mesh: enabled},
  annotations: {isthmus.dev/netns: /n/web, isthmus.dev/cgroup: /c/web}}
spec: {nodeName: here}
status: {podIP: 10.0.0.1}
---
apiVersion: v1
kind: Pod
metadata: {name: db, namespace: shop, uid: uid-db, labels: {isthmus.dev/mesh: enabled},
  annotations: {isthmus.dev/netns: /n/db, isthmus.dev/cgroup: /c/db}}
spec: {nodeName: here}
status: {podIP: 10.0.0.2}
---
apiVersion: v1
kind: Pod
metadata: {name: far, namespace: shop, uid: uid-far, labels: {isthmus.dev/mesh: enabled}}
spec: {nodeName: there}
status: {podIP: 10.0.0.3}
---
apiVersion: v1
kind: Pod
metadata: {name: plain, namespace: shop, uid: uid-plain}
spec: {nodeName: here}
status: {podIP: 10.0.0.4}
";

fn world() -> World {
    let objects = read_objects(Path::new("world.yaml"), PODS).unwrap();
    let built = build([&objects], "here", None);
    assert_eq!(built.problems, []);
    built.world
}

fn facts(world: &World) -> Facts<'_> {
    Facts {
        node: "here",
        world,
        policies: &[],
        problems: &[],
        enrolled: HashSet::new(),
        pending: HashMap::new(),
    }
}

fn problem(object: &str, message: &str) -> Problem {
    Problem::new(&Origin::api(), object, "spec.rules", message, "correct it")
}

fn version(kind: UnreadKind, name: &str, generation: i64, unread: &[Problem]) -> PolicyVersion {
    PolicyVersion {
        kind,
        namespace: "shop".into(),
        name: name.into(),
        generation,
        unread: unread.to_vec(),
    }
}

#[test]
fn a_policy_has_its_own_problems_and_those_of_the_version_that_is_there() {
    let world = world();
    let allow = UnreadKind::AuthorizationPolicy;
    let typo = problem("AuthorizationPolicy shop/typo", "unknown field");
    let policies = [
        version(allow, "good", 1, &[]),
        version(allow, "bad", 2, &[]),
        version(allow, "typo", 3, std::slice::from_ref(&typo)),
        version(UnreadKind::PeerAuthentication, "bad", 4, &[]),
    ];
    let of_bad = problem("AuthorizationPolicy shop/bad", "never matches");
    let problems = [
        of_bad.clone(),
        problem("AuthorizationPolicy other/good", "of another namespace"),
        // Of its last good version, and of the one that is there.
        problem("AuthorizationPolicy shop/typo", "of the last good version"),
        typo.clone(),
    ];
    let told = snapshot(&Facts {
        policies: &policies,
        problems: &problems,
        ..facts(&world)
    });
    let told: Vec<_> = told
        .policies
        .into_iter()
        .map(|it| {
            assert_eq!(it.namespace, "shop");
            (it.kind, it.name, it.generation, it.problems)
        })
        .collect();
    let allow = PolicyKind::AuthorizationPolicy;
    let expected = [
        (allow, "good".to_owned(), 1, vec![]),
        (allow, "bad".to_owned(), 2, vec![of_bad]),
        (allow, "typo".to_owned(), 3, vec![typo]),
        (PolicyKind::PeerAuthentication, "bad".to_owned(), 4, vec![]),
    ];
    assert_eq!(told, expected);
}

/// Name, UID and reason of every pod that is told of.
fn pods(facts: &Facts<'_>) -> Vec<(String, String, Option<String>)> {
    let pods = snapshot(facts).pods.into_iter();
    pods.map(|it| (it.name, it.uid, it.not_enrolled)).collect()
}

#[test]
fn a_pod_is_told_of_once_it_is_enrolled_or_known_why_not() {
    let world = world();
    assert_eq!(pods(&facts(&world)), [], "nothing is known yet");

    let web = ("web".to_owned(), "uid-web".to_owned(), None);
    let enrolled = Facts {
        enrolled: HashSet::from(["shop/web"]),
        ..facts(&world)
    };
    assert_eq!(pods(&enrolled), std::slice::from_ref(&web));

    let refused = [problem("Pod shop/db", "no cgroup"), {
        problem("Pod shop/db", "a remark").into_warning()
    }];
    // What is wrong with an enrolled pod does not make it one that is not.
    let of_web = [problem("Pod shop/web", "odd label")];
    let db = ("db".to_owned(), "uid-db".to_owned());
    let why = Some("spec.rules: no cgroup; correct it".to_owned());
    let both = Facts {
        problems: &of_web,
        pending: HashMap::from([("shop/db", refused.as_slice())]),
        ..enrolled
    };
    assert_eq!(pods(&both), [(db.0.clone(), db.1.clone(), why), web]);

    // Without an attempt, what the configuration says of it.
    let disputed = [problem("Pod shop/db", "its address is another's too")];
    let told = pods(&Facts {
        problems: &disputed,
        ..facts(&world)
    });
    let why = Some("spec.rules: its address is another's too; correct it".to_owned());
    assert_eq!(told, [(db.0, db.1, why)]);
}
