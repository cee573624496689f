//! Istio's keys, other people's, and garbage.

use http::HeaderMap;

use super::{Baggage, BaggageFields, MAX_LEN, WorkloadKind};

fn parse(values: &[&str]) -> Option<BaggageFields> {
    let mut headers = HeaderMap::new();
    for value in values {
        headers.append("baggage", value.parse().unwrap());
    }
    let baggage = Baggage::parse(headers.get_all("baggage"))?;
    Some(baggage.fields().clone())
}

fn full() -> BaggageFields {
    BaggageFields {
        cluster: Some("Kubernetes".into()),
        namespace: Some("shop".into()),
        workload: Some((WorkloadKind::Deployment, "web".into())),
        service: Some("web".into()),
        version: Some("v1".into()),
        region: Some("r1".into()),
        zone: Some("z1".into()),
    }
}

const FULL: &str = "k8s.cluster.name=Kubernetes,k8s.namespace.name=shop,\
    k8s.deployment.name=web,service.name=web,service.version=v1,\
    cloud.region=r1,cloud.availability_zone=z1";

#[test]
fn all_fields_round_trip_as_ztunnel_writes_them() {
    let baggage = Baggage::new(full()).unwrap();
    assert_eq!(baggage.header(), FULL);
    assert_eq!(parse(&[FULL]), Some(full()));
}

#[test]
fn members_may_be_spread_over_headers_spaced_and_annotated() {
    let (first, rest) = FULL.split_once(',').unwrap();
    assert_eq!(parse(&[first, rest]), Some(full()));
    let spaced = FULL.replace(',', " ;meta=1; x , ").replace('=', " = ");
    assert_eq!(parse(&[&spaced]), Some(full()));
}

#[test]
fn every_kind_of_workload_has_its_key() {
    for (kind, key) in [
        (WorkloadKind::Deployment, "k8s.deployment.name"),
        (WorkloadKind::CronJob, "k8s.cronjob.name"),
        (WorkloadKind::Job, "k8s.job.name"),
        (WorkloadKind::Pod, "k8s.pod.name"),
    ] {
        let fields = parse(&[&format!("{key}=w")]).unwrap();
        assert_eq!(fields.workload, Some((kind, "w".into())));
        let baggage = Baggage::new(fields).unwrap();
        assert_eq!(baggage.header(), &format!("{key}=w"));
    }
}

#[test]
fn a_value_of_any_characters_survives() {
    let odd = BaggageFields {
        version: Some("v1;beta=2, \"ü\" 100%\\".into()),
        ..BaggageFields::default()
    };
    let baggage = Baggage::new(odd.clone()).unwrap();
    let header = baggage.header().to_str().unwrap();
    assert!(header.is_ascii() && !header.contains([',', '"', ' ']));
    assert_eq!(parse(&[header]), Some(odd));
}

#[test]
fn what_is_unknown_empty_or_garbled_is_left_out() {
    assert_eq!(Baggage::new(BaggageFields::default()), None);
    let long = format!("service.name={}", "x".repeat(254));
    let control = "service.name=a%0Ab";
    for header in [
        "",
        ",,,",
        "=",
        "service.name",
        "service.name=",
        "service.name=%",
        "service.name=%4",
        "service.name=%zz",
        "service.name=%ff",
        "Service.Name=x",
        "k8s.replicaset.name=x",
        "user.id=alice",
        control,
        &long,
    ] {
        assert_eq!(parse(&[header]), None, "{header}");
        let kept = parse(&[&format!("{header},k8s.namespace.name=shop")]).unwrap();
        assert_eq!(kept.namespace.as_deref(), Some("shop"), "{header}");
        assert_eq!(kept.service, None, "{header}");
    }
}

#[test]
fn too_much_is_not_looked_at() {
    let last = ",k8s.namespace.name=shop";
    assert!(parse(&[&format!("{}{last}", "a=b,".repeat(62))]).is_some());
    assert_eq!(parse(&[&format!("{}{last}", "a=b,".repeat(64))]), None);
    let padded = format!("k8s.namespace.name=shop,a={}", "x".repeat(MAX_LEN));
    assert_eq!(parse(&[&padded]), None);
}
