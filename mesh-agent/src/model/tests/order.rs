//! The world does not depend on the order in which objects arrive.

use std::fmt::Write;
use std::sync::Arc;

use super::super::{Built, Objects, Pod, World, build};
use super::{NODE, SHOP, objects, pod, pod_with};

/// Everything a generation says, as text.
fn describe(built: &Built) -> String {
    let Built {
        world,
        problems,
        complete,
        all_found,
    } = built;
    let mut text = format!("{:?} {complete} {all_found}\n{problems:#?}\n", world.mesh());
    for workload in world.workloads() {
        writeln!(text, "{workload:?}").unwrap();
    }
    for service in world.services() {
        writeln!(text, "{service:?}").unwrap();
    }
    let by_ip = world.owners.by_ip.iter().map(|it| format!("{it:?}"));
    let external = world.owners.external.iter().map(|it| format!("{it:?}"));
    let mut owners: Vec<String> = by_ip.chain(external).collect();
    owners.sort();
    text + &owners.join("\n")
}

/// Numbers that look random and are the same in every run (xorshift).
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit as u64) as usize
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }
}

fn mesh_config(domain: &str) -> String {
    format!(
        "apiVersion: isthmus.dev/v1alpha1\nkind: MeshConfig\nmetadata: {{name: mesh}}\nspec: {{trustDomain: {domain}}}\n"
    )
}

/// The shop, and beside it something of every kind of conflict.
fn sources() -> Vec<Objects> {
    let service = |name: &str| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: shop}}\nspec: {{clusterIP: 10.96.0.50, ports: [{{port: 80}}]}}\n"
        )
    };
    let external = |name: &str, ip: &str| {
        let named = service(name).replace("10.96.0.50", ip);
        named.replace("spec: {", "spec: {externalIPs: [198.51.100.1, 10.1.0.20], ")
    };
    let rule = |name: &str, mode: &str| {
        format!(
            "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {{name: {name}, namespace: istio-system}}\nspec: {{mtls: {{mode: {mode}}}}}\n"
        )
    };
    let texts = [
        SHOP.to_owned(),
        pod("one", "10.1.0.20"),
        pod("two", "10.1.0.20"),
        pod_with("three", "10.1.0.21", "one", "other"),
        pod("web", "10.1.0.22"),
        pod("moved", "10.1.0.20"),
        service("first"),
        service("second"),
        service("first"),
        external("third", "10.96.0.51"),
        external("fourth", "10.96.0.52"),
        rule("b", "STRICT"),
        rule("a", "PERMISSIVE"),
        mesh_config("a.example"),
        mesh_config("b.example"),
    ];
    let files = texts.iter().enumerate();
    files
        .map(|(i, text)| objects(&format!("{i:02}.yaml"), text))
        .collect()
}

#[test]
fn the_order_of_files_and_of_objects_does_not_matter() {
    let before = mesh_config("a.example") + "---\n" + &pod("moved", "10.1.0.30");
    let before = build([&objects("old.yaml", &before)], NODE, None);
    let mut sources = sources();
    let expected = describe(&build(&sources, NODE, Some(&before.world)));
    assert!(
        expected.contains("10.1.0.30"),
        "a past form is among what is tried"
    );
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    for round in 0..200 {
        dice.shuffle(&mut sources);
        for objects in &mut sources {
            dice.shuffle(&mut objects.pods);
            dice.shuffle(&mut objects.services);
            dice.shuffle(&mut objects.endpoint_slices);
            for slice in &mut objects.endpoint_slices {
                dice.shuffle(&mut slice.object.endpoints);
            }
        }
        let built = build(&sources, NODE, Some(&before.world));
        assert_eq!(describe(&built), expected, "round {round}");
    }
}

/// One source with each pod anew, so that nothing can be known again.
fn afresh(objects: &Objects) -> Objects {
    let mut objects = objects.clone();
    for pod in &mut objects.pods {
        pod.object = Arc::new(Pod::clone(&pod.object));
    }
    objects
}

#[test]
fn what_is_used_again_is_what_would_be_made_anew() {
    let plain = |name: &str, ip: &str| {
        // Whether it is meshed is for its namespace to say.
        pod(name, ip).replace("isthmus.dev/mesh: enabled", "app: plain")
    };
    let namespace = |name: &str, mesh: &str| {
        format!(
            "apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}, labels: {{isthmus.dev/mesh: {mesh}}}}}\n"
        )
    };
    let mut pool = sources();
    for (i, text) in [
        namespace("shop", "disabled"),
        namespace("shop", "enabled"),
        plain("plain", "10.1.0.40"),
        plain("plain", "10.1.0.41"),
        pod("first", "10.1.0.42"),
        pod("a", "10.1.0.43").replace("namespace: shop", "namespace: shop-b"),
        pod("last", "not-an-address"),
        pod("last", "10.1.0.44"),
    ]
    .iter()
    .enumerate()
    {
        pool.push(objects(&format!("again-{i}.yaml"), text));
    }
    let mut dice = Dice(0x2545_f491_4f6c_dd1d);
    let mut before = None;
    for round in 0..300 {
        let there: Vec<&Objects> = pool.iter().filter(|_| dice.below(3) > 0).collect();
        let again = build(there.iter().copied(), NODE, before.as_ref());
        let anew: Vec<Objects> = there.into_iter().map(afresh).collect();
        let anew = build(&anew, NODE, before.as_ref());
        assert_eq!(describe(&again), describe(&anew), "round {round}");
        before = Some(again.world);
    }
}

#[test]
fn a_pod_that_is_the_same_is_not_converted_again() {
    let source = objects("mesh.yaml", &(SHOP.to_owned() + &pod("same", "10.1.0.40")));
    let mut before = build([&source], NODE, None).world;
    let is_marked =
        |world: &World| world.workload("shop/same").unwrap().app.as_deref() == Some("x");
    // A mark that no pod has, so it can only be carried over.
    for workload in &mut before.workloads {
        Arc::make_mut(workload).app = Some("x".into());
    }
    assert!(is_marked(&build([&source], NODE, Some(&before)).world));
    assert!(!is_marked(&build([&source], "node-b", Some(&before)).world));
    let anew = build([&afresh(&source)], NODE, Some(&before));
    assert!(!is_marked(&anew.world));
}
