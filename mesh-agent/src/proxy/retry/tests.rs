//! From endpoint to endpoint, under a clock that stands still unless awaited.

use std::cell::RefCell;
use std::net::SocketAddr;

use super::*;

/// What an endpoint does to whoever connects.
#[derive(Clone, Copy)]
enum Does {
    Answer,
    /// Refuses at once.
    Refuse,
    /// Says nothing, for good.
    Hang,
    /// Refuses by policy.
    Deny,
    /// Is an address of the cluster whose pod is not known.
    Unknown,
    /// Answers after so many milliseconds.
    After(u64),
}
use Does::{After, Answer, Deny, Hang, Refuse, Unknown};

/// What came of a connection.
#[derive(Debug, PartialEq)]
struct Seen {
    /// The last numbers of the endpoints tried, in order.
    tried: Vec<u8>,
    /// Why another was tried, each time.
    retried: Vec<Reason>,
    /// Milliseconds until it was settled.
    took: u128,
    made: bool,
}

fn endpoints(count: usize) -> Vec<Endpoint> {
    let addr = |n| SocketAddr::from(([10, 0, 0, n], 80));
    let numbers = 0..u8::try_from(count).unwrap();
    numbers
        .map(|n| Endpoint {
            addr: addr(n),
            workload: None,
        })
        .collect()
}

fn number(addr: SocketAddr) -> u8 {
    addr.ip()
        .to_string()
        .rsplit('.')
        .next()
        .unwrap()
        .parse()
        .unwrap()
}

async fn connect(balance: &Rc<Balance>, does: &[Does], first: usize) -> Seen {
    let began = Instant::now();
    let (tried, mut retried) = (RefCell::new(Vec::new()), Vec::new());
    let attempt = async |candidate: Candidate| {
        let number = number(candidate.addr);
        tried.borrow_mut().push(number);
        match does[usize::from(number)] {
            Answer => Ok(()),
            Refuse => Err(Failure::refused(Reason::UpstreamRefused)),
            Deny => Err(Failure::refused(Reason::UpstreamDenied)),
            Unknown => Err(Failure::denied(Reason::DestinationUnknown, "no pod has it")),
            Hang => std::future::pending().await,
            After(ms) => {
                tokio::time::sleep(Duration::from_millis(ms)).await;
                Ok(())
            }
        }
    };
    let why = |reason| retried.push(reason);
    let made = one_after_another(balance, &endpoints(does.len()), first, attempt, why).await;
    let made = made.map(|((), busy)| assert_eq!(Some(&number(busy.addr())), tried.borrow().last()));
    Seen {
        tried: tried.into_inner(),
        retried,
        took: began.elapsed().as_millis(),
        made: made.is_ok(),
    }
}

#[tokio::test(start_paused = true)]
async fn the_next_is_tried_while_there_is_one_and_time() {
    use Reason::{UpstreamRefused as Refused, UpstreamTimeout as Timeout};
    let cases: [(&[Does], usize, Seen); 11] = [
        (&[Answer, Refuse], 0, seen(&[0], &[], 0, true)),
        (&[Answer, Refuse], 1, seen(&[1, 0], &[Refused], 0, true)),
        (
            &[Refuse, Refuse, Answer],
            0,
            seen(&[0, 1, 2], &[Refused; 2], 0, true),
        ),
        // The other agent's verdict is not to be gone around.
        (
            &[Refuse, Deny, Answer],
            0,
            seen(&[0, 1], &[Refused], 0, false),
        ),
        // The own agent's doubt about one endpoint says nothing of the others.
        (
            &[Unknown, Answer],
            0,
            seen(&[0, 1], &[Reason::DestinationUnknown], 0, true),
        ),
        (&[Hang, Answer], 0, seen(&[0, 1], &[Timeout], 3500, true)),
        // The last has the time that is left.
        (
            &[Hang, After(6400)],
            0,
            seen(&[0, 1], &[Timeout], 9900, true),
        ),
        (
            &[Hang, Hang, Hang, Answer],
            0,
            seen(&[0, 1, 2], &[Timeout; 2], 10_000, false),
        ),
        (&[Refuse], 0, seen(&[0], &[], 0, false)),
        (&[After(60_000)], 0, seen(&[0], &[], 60_000, true)),
        (
            &[Refuse; 7],
            6,
            seen(&[6, 0, 1, 2, 3], &[Refused; 4], 0, false),
        ),
    ];
    for (number, (does, first, expected)) in cases.into_iter().enumerate() {
        let balance = Rc::default();
        assert_eq!(
            connect(&balance, does, first).await,
            expected,
            "case {number}"
        );
    }
}

fn seen(tried: &[u8], retried: &[Reason], took: u128, made: bool) -> Seen {
    Seen {
        tried: tried.to_vec(),
        retried: retried.to_vec(),
        took,
        made,
    }
}

#[tokio::test(start_paused = true)]
async fn the_next_connection_does_not_pay_again() {
    let balance = Rc::<Balance>::default();
    let does = [Hang, Refuse, Answer, Answer];
    let now = || Instant::now().into_std();
    assert_eq!(connect(&balance, &does, 0).await.tried, [0, 1, 2]);
    for random in 0..64_u64 {
        let random = random.wrapping_mul(0x0123_4567_89ab_cdef);
        let first = balance.choose(&endpoints(4), random, now());
        assert!(first >= 2, "{first}");
    }
    // When the others fail too, those that failed before come after them.
    assert_eq!(
        connect(&balance, &[Answer, Answer, Refuse, Refuse], 2)
            .await
            .tried,
        [2, 3, 0]
    );
    assert_eq!(connect(&balance, &does, 0).await.tried, [0, 1, 2]);
}
