use super::*;
use crate::ca::api::certificate;
use crate::identity::fixtures::{DAY, HOUR, TestCa, epoch, id, leaf_params};

fn answer(chain: Vec<CertificateDer<'static>>) -> Answer {
    CertificateResponse {
        cert_chain: chain.iter().map(|der| certificate(der)).collect(),
    }
}

fn uri(account: &str) -> String {
    id(account).to_string()
}

#[test]
fn the_chain_is_taken_without_its_roots() {
    let ca = TestCa::new("cluster.local").intermediate();
    let pending = Pending::new(&id("web")).unwrap();
    let chain = ca.certify(&pending.csr, leaf_params(&[&uri("web")]));
    let mut answered = answer(chain.clone());
    let roots = ca.bundle_with(&TestCa::new("cluster.local"));
    // As istiod does: one last element with all roots.
    answered
        .cert_chain
        .push(roots.roots().iter().map(|der| certificate(der)).collect());
    let svid = pending.accept(answered, &id("web"), epoch()).unwrap();
    assert_eq!(svid.chain(), chain);
    assert_eq!(svid.id(), &id("web"));
}

/// Answers that an authority may give by mistake or malice, and why each is refused.
#[test]
fn unusable_answers_are_refused() {
    let ca = TestCa::new("cluster.local");
    let certified =
        |pending: &Pending, uris: &[&str]| answer(ca.certify(&pending.csr, leaf_params(uris)));
    let refuse = |make: &dyn Fn(&Pending) -> Answer, now| {
        let pending = Pending::new(&id("web")).unwrap();
        let answer = make(&pending);
        pending.accept(answer, &id("web"), now).unwrap_err()
    };
    let web = |pending: &Pending| certified(pending, &[&uri("web")]);

    let empty = refuse(&|_| Answer::default(), epoch());
    assert_eq!(empty, AnswerError::Empty);
    for text in [
        "",
        "hello",
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    ] {
        let garbage = || Answer {
            cert_chain: vec![text.to_owned()],
        };
        assert_eq!(
            refuse(&|_| garbage(), epoch()),
            AnswerError::NotPem,
            "{text}"
        );
    }
    let long = refuse(
        &|pending| {
            let mut answer = web(pending);
            let last = answer.cert_chain[0].clone();
            answer.cert_chain.extend(vec![last; MAX_CERTIFICATES]);
            answer
        },
        epoch(),
    );
    assert_eq!(long, AnswerError::TooLong);
    let other = refuse(&|pending| certified(pending, &[&uri("db")]), epoch());
    assert!(
        matches!(other, AnswerError::OtherIdentity { .. }),
        "{other}"
    );
    for uris in [
        &[][..],
        &["https://example.com"],
        &[&uri("web"), &uri("db")],
    ] {
        let odd = refuse(&|pending| certified(pending, uris), epoch());
        assert!(matches!(odd, AnswerError::Leaf(_)), "{odd}");
    }
    let key = refuse(&|_| answer(ca.identity(&id("web")).chain), epoch());
    assert_eq!(key, AnswerError::OtherKey);
    let expired = refuse(&web, epoch() + DAY + HOUR);
    assert!(matches!(expired, AnswerError::Expired(_)), "{expired}");
    let early = refuse(&web, epoch() - HOUR);
    assert!(matches!(early, AnswerError::NotYetValid(_)), "{early}");
}
