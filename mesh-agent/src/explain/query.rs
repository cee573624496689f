//! What `mesh-agent explain` can be asked, and its form on the agent's socket.

use std::net::{IpAddr, SocketAddr};

use crate::observe::ConnectionId;

/// A connection that may never have been made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    /// The pod that would connect, `namespace/name`.
    pub from: String,
    /// What it would connect to.
    pub to: Destination,
}

/// What a pod would connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// A pod or a Service.
    Name {
        /// `namespace/name`
        name: String,
        /// The port asked for.
        port: Option<u16>,
    },
    /// An address.
    Address(SocketAddr),
}

/// A question to the agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    /// Would it be allowed?
    Would(Query),
    /// Why did it end as it did?
    Connection(ConnectionId),
}

/// Why a text is no question.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// Not the name of a pod.
    #[error("{0:?} is not of the form NAMESPACE/POD")]
    Pod(String),
    /// Neither a name nor an address.
    #[error("{0:?} is neither NAMESPACE/POD nor IP:PORT (with IPv6 in brackets)")]
    Destination(String),
    /// Two ports.
    #[error("{0} says a port already; leave --port out")]
    TwoPorts(String),
    /// No port.
    #[error("say which port of {0} is meant, with --port")]
    NoPort(String),
    /// Not the name of a connection.
    #[error("{0:?} is not a connection's name: sixteen hexadecimal digits, as in the access log")]
    Connection(String),
    /// Neither of the two.
    #[error("ask with --from and --to, or with the name of a connection")]
    Incomplete,
}

impl Query {
    /// Reads what was given on a command line.
    ///
    /// # Errors
    /// See [`QueryError`].
    pub fn new(from: &str, to: &str, port: Option<u16>) -> Result<Self, QueryError> {
        if !is_name(from) {
            return Err(QueryError::Pod(from.to_owned()));
        }
        let to = if let Ok(address) = to.parse::<SocketAddr>() {
            if port.is_some() {
                return Err(QueryError::TwoPorts(to.to_owned()));
            }
            Destination::Address(address)
        } else if let Ok(ip) = to.trim_matches(['[', ']']).parse::<IpAddr>() {
            let port = port.ok_or_else(|| QueryError::NoPort(to.to_owned()))?;
            Destination::Address(SocketAddr::new(ip, port))
        } else if is_name(to) {
            let name = to.to_owned();
            Destination::Name { name, port }
        } else {
            return Err(QueryError::Destination(to.to_owned()));
        };
        let from = from.to_owned();
        Ok(Self { from, to })
    }
}

impl Question {
    /// The path and query that ask it of the agent.
    pub fn path(&self) -> String {
        match self {
            Self::Connection(id) => format!("/explain?connection={id}"),
            Self::Would(Query { from, to }) => match to {
                Destination::Address(to) => format!("/explain?from={from}&to={to}"),
                Destination::Name { name, port: None } => format!("/explain?from={from}&to={name}"),
                Destination::Name {
                    name,
                    port: Some(port),
                } => format!("/explain?from={from}&to={name}&port={port}"),
            },
        }
    }

    /// Reads the query of a path. Nothing in it is ever escaped: names are Kubernetes'.
    ///
    /// # Errors
    /// See [`QueryError`].
    pub fn parse(query: &str) -> Result<Self, QueryError> {
        let field = |name: &str| {
            let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
            pairs.find(|(key, _)| *key == name).map(|(_, value)| value)
        };
        match (field("connection"), field("from"), field("to")) {
            (Some(id), None, None) => Self::connection(id),
            (None, Some(from), Some(to)) => {
                let port = field("port").map(|port| {
                    let bad = |_| QueryError::Destination(format!("{to} port {port}"));
                    port.parse().map_err(bad)
                });
                Query::new(from, to, port.transpose()?).map(Self::Would)
            }
            _ => Err(QueryError::Incomplete),
        }
    }

    /// A question after a connection, by its name in the access log.
    ///
    /// # Errors
    /// When it is no such name.
    pub fn connection(id: &str) -> Result<Self, QueryError> {
        let digits = id.len() <= 16 && id.bytes().all(|b| b.is_ascii_hexdigit());
        let parsed = id.parse().ok().filter(|_| digits);
        let parsed = parsed.ok_or_else(|| QueryError::Connection(id.to_owned()))?;
        Ok(Self::Connection(parsed))
    }
}

/// `namespace/name`, both made of what Kubernetes' names are made of.
fn is_name(text: &str) -> bool {
    let part = |part: &str| {
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.".contains(&b);
        (1..=253).contains(&part.len()) && part.bytes().all(allowed)
    };
    text.split_once('/')
        .is_some_and(|(namespace, name)| part(namespace) && part(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_survive_the_way_to_the_agent() {
        for (from, to, port) in [
            ("shop/web", "shop/db", Some(80)),
            ("shop/web", "shop/db", None),
            ("shop/web", "10.0.0.1:80", None),
            ("shop/web", "[fd00::1]:80", None),
            ("shop/web", "fd00::1", Some(80)),
            ("shop/web", "[fd00::1]", Some(80)),
        ] {
            let question = Question::Would(Query::new(from, to, port).unwrap());
            let path = question.path();
            let uri: http::Uri = path.parse().unwrap();
            assert_eq!(Question::parse(uri.query().unwrap()).unwrap(), question);
        }
        let question = Question::connection("0000abcd00000001").unwrap();
        assert_eq!(question.path(), "/explain?connection=0000abcd00000001");
        assert_eq!(
            Question::parse("connection=0000abcd00000001").unwrap(),
            question
        );
    }

    #[test]
    fn what_cannot_be_asked_is_said() {
        for (from, to, port, expected) in [
            ("web", "shop/db", None, QueryError::Pod("web".into())),
            (
                "shop/w&b",
                "shop/db",
                None,
                QueryError::Pod("shop/w&b".into()),
            ),
            ("shop/web", "db", None, QueryError::Destination("db".into())),
            (
                "shop/web",
                "10.0.0.1",
                None,
                QueryError::NoPort("10.0.0.1".into()),
            ),
            (
                "shop/web",
                "10.0.0.1:1",
                Some(2),
                QueryError::TwoPorts("10.0.0.1:1".into()),
            ),
        ] {
            assert_eq!(Query::new(from, to, port), Err(expected));
        }
        for query in [
            "",
            "from=shop/web",
            "connection=1&from=a/b&to=c/d",
            "connection",
        ] {
            assert_eq!(
                Question::parse(query),
                Err(QueryError::Incomplete),
                "{query}"
            );
        }
        for id in ["", "xyz", "00000000000000001", "+1"] {
            assert!(Question::connection(id).is_err(), "{id:?}");
        }
        assert!(Question::parse("from=a/b&to=c/d&port=70000").is_err());
    }
}
