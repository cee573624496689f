//! Templates: which texts are one, and that ID and names are each other's inverse.

use proptest::prelude::*;

use super::*;

fn domain() -> TrustDomain {
    TrustDomain::new("one.example").unwrap()
}

fn forms(template: &str) -> IdForms {
    let mut forms = IdForms::default();
    forms.set(domain(), template.parse().unwrap());
    forms
}

fn id(forms: &IdForms, namespace: &str, account: &str, pod: &str) -> SpiffeId {
    let id = forms.identity(domain(), namespace.into(), account.into(), pod);
    id.unwrap()
}

#[test]
fn template_errors_name_what_is_wrong() {
    for (text, expected) in [
        ("", "does not begin with a slash"),
        ("/", "does not begin with a slash, or ends"),
        ("k8s/{namespace}/{serviceAccount}", "begin with a slash"),
        ("/{namespace}/{serviceAccount}/", "ends with one"),
        ("/{namespace}//{serviceAccount}", "segment \"\""),
        ("/../{namespace}/{serviceAccount}", "segment \"..\""),
        ("/{namespace}/a%20b/{serviceAccount}", "segment \"a%20b\""),
        ("/{namespace}/ä/{serviceAccount}", "segment \"ä\""),
        (
            "/{namespace}-{serviceAccount}",
            "segment \"{namespace}-{serviceAccount}\"",
        ),
        (
            "/{namespace}/{serviceAccount",
            "segment \"{serviceAccount\"",
        ),
        ("/{namespace}/{account}", "segment \"{account}\""),
        ("/{namespace}/x", "{serviceAccount} is there 0 times"),
        (
            "/{serviceAccount}/{namespace}/{namespace}",
            "{namespace} is there 2 times",
        ),
        (
            "/{serviceAccount}/{namespace}/{podName}/{podName}",
            "{podName} is there 2 times",
        ),
    ] {
        let error = text.parse::<IdTemplate>().unwrap_err().to_string();
        assert!(error.contains(expected), "{text:?}: {error}");
    }
    let long = format!("/{}/{{namespace}}/{{serviceAccount}}", "x".repeat(1300));
    let error = long.parse::<IdTemplate>().unwrap_err();
    assert!(matches!(error, TemplateError::TooLong(_)), "{error}");
}

#[test]
fn identity_has_the_path_and_keeps_its_names() {
    let forms = forms("/k8s/{namespace}/sa-{serviceAccount}.x/{podName}");
    let web = id(&forms, "shop", "web", "web-1");
    assert_eq!(
        web.to_string(),
        "spiffe://one.example/k8s/shop/sa-web.x/web-1"
    );
    assert_eq!((web.namespace(), web.service_account()), ("shop", "web"));
    assert_eq!(forms.parse(&web.to_string()), Ok(web.clone()));
    assert_ne!(web, id(&forms, "shop", "web", "web-2"));
    let standard = SpiffeId::new(domain(), "shop", "web").unwrap();
    assert_ne!(web, standard);
    let no_pod = forms.identity(domain(), "shop".into(), "web".into(), "Web_1");
    assert_eq!(no_pod, Err(IdentityError::Name("Web_1".to_owned())));
}

#[test]
fn parse_takes_the_form_of_the_domain_and_no_other() {
    let forms = forms("/k8s/{namespace}/{serviceAccount}");
    for wrong in [
        "spiffe://one.example/ns/shop/sa/web",
        "spiffe://one.example/k8s/shop",
        "spiffe://one.example/k8s/shop/web/x",
        "spiffe://one.example/k8s/shop/web/",
        "spiffe://one.example/k8s//web",
        "spiffe://one.example/k8s/shop/Web",
        "spiffe://one.example/k8s/shop/..",
        "spiffe://one.example/K8s/shop/web",
        "spiffe://one.example/k8s/shop/web?x",
        "spiffe://one.example/k8s/shop/we%62",
        "spiffe://one.example",
        "SPIFFE://one.example/k8s/shop/web",
    ] {
        assert!(forms.parse(wrong).is_err(), "{wrong} was taken");
    }
    let error = forms
        .parse("spiffe://one.example/ns/shop/sa/web")
        .unwrap_err();
    let form = "spiffe://one.example/k8s/{namespace}/{serviceAccount}";
    assert!(error.to_string().contains(form), "{error}");
    let other = "spiffe://two.example/ns/shop/sa/web";
    assert_eq!(forms.parse(other).unwrap().to_string(), other);
    assert!(forms.parse("spiffe://two.example/k8s/shop/web").is_err());
}

#[test]
fn uri_of_any_form_is_read_and_others_are_not() {
    for uri in [
        "spiffe://a/ns/shop/sa/web",
        "spiffe://a/k8s/Web_1.x",
        "spiffe://a/x",
    ] {
        assert_eq!(uri.parse::<SpiffeUri>().unwrap().to_string(), uri);
    }
    for uri in [
        "",
        "spiffe://a",
        "spiffe://a/",
        "spiffe://a/x/",
        "spiffe://a/x//y",
        "spiffe://A/x",
        "spiffe://a/{namespace}",
        "spiffe://a/x y",
        "spiffe://a/../x",
    ] {
        assert!(uri.parse::<SpiffeUri>().is_err(), "{uri} was taken");
    }
}

#[test]
fn template_of_the_standard_form_is_none() {
    let forms = forms("/ns/{namespace}/sa/{serviceAccount}");
    assert_eq!(forms, IdForms::default());
}

fn name() -> impl Strategy<Value = String> {
    "[a-z0-9]([a-z0-9.-]{0,20}[a-z0-9])?"
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn names_of_an_id_are_those_it_was_made_of(
        mut segments in prop::collection::vec("[A-Za-z0-9_-]{1,8}", 0..4),
        around in prop::collection::vec("[A-Za-z0-9._-]{0,4}", 6),
        at in prop::collection::vec(any::<prop::sample::Index>(), 3),
        (namespace, account, pod) in (name(), name(), name())
    ) {
        for (i, field) in ["{namespace}", "{serviceAccount}", "{podName}"].iter().enumerate() {
            let segment = format!("{}{field}{}", around[i], around[i + 3]);
            segments.insert(at[i].index(segments.len() + 1), segment);
        }
        let forms = forms(&format!("/{}", segments.join("/")));
        let made = id(&forms, &namespace, &account, &pod);
        let read = forms.parse(&made.to_string()).unwrap();
        prop_assert_eq!(read.namespace(), namespace);
        prop_assert_eq!(read.service_account(), account);
        prop_assert_eq!(read, made);
    }

    #[test]
    fn parse_of_any_text_gives_what_is_written_or_an_error(
        rest in "[a-z0-9/._%{}-]{0,40}", template in "[/a-z{}NSAP.]{0,40}"
    ) {
        let mut all = vec![forms("/k8s/{namespace}/x-{serviceAccount}")];
        if let Ok(template) = template.parse() {
            let mut more = IdForms::default();
            more.set(domain(), template);
            all.push(more);
        }
        for forms in all {
            for uri in [format!("spiffe://one.example/k8s/{rest}"), rest.clone()] {
                if let Ok(id) = forms.parse(&uri) {
                    prop_assert_eq!(id.to_string(), uri);
                }
            }
        }
    }
}
