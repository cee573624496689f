//! Objects as they arrive. Reading one never fails, whatever it holds: an error here would
//! fail the list or end the watch that it is in, and with it every other object.

use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::core::{ApiResource, DynamicResourceScope, Resource};
use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeOwned, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use std::borrow::Cow;

/// What is kept of an object while it is read.
pub(super) trait Body:
    DeserializeOwned + Clone + fmt::Debug + Send + Sync + 'static
{
    /// Name, namespace and resource version, for the watch.
    fn meta(&self) -> ObjectMeta;
}

/// One object.
#[derive(Clone, Debug)]
pub(super) struct Received<B> {
    pub(super) meta: ObjectMeta,
    pub(super) body: B,
}

impl<'de, B: Body> Deserialize<'de> for Received<B> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let body = B::deserialize(deserializer)?;
        Ok(Self {
            meta: body.meta(),
            body,
        })
    }
}

impl<B: Body> Resource for Received<B> {
    type DynamicType = ApiResource;
    type Scope = DynamicResourceScope;

    fn kind(it: &ApiResource) -> Cow<'_, str> {
        it.kind.as_str().into()
    }

    fn group(it: &ApiResource) -> Cow<'_, str> {
        it.group.as_str().into()
    }

    fn version(it: &ApiResource) -> Cow<'_, str> {
        it.version.as_str().into()
    }

    fn api_version(it: &ApiResource) -> Cow<'_, str> {
        it.api_version.as_str().into()
    }

    fn plural(it: &ApiResource) -> Cow<'_, str> {
        it.plural.as_str().into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.meta
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.meta
    }
}

impl Body for Value {
    fn meta(&self) -> ObjectMeta {
        let text = |field: &str| Some(self.get("metadata")?.get(field)?.as_str()?.to_owned());
        ObjectMeta {
            name: text("name"),
            namespace: text("namespace"),
            resource_version: text("resourceVersion"),
            ..ObjectMeta::default()
        }
    }
}

/// The fields of an object; their defaults where there is something else than an object.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Part<T>(pub(super) T);

impl<'de, T: Deserialize<'de> + Default> Deserialize<'de> for Part<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields<T>(std::marker::PhantomData<T>);
        impl<'de, T: Deserialize<'de> + Default> Visitor<'de> for Fields<T> {
            type Value = Part<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("anything")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Part<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Part)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Part<T>, A::Error> {
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Part::default())
            }

            fn visit_bool<E>(self, _: bool) -> Result<Part<T>, E> {
                Ok(Part::default())
            }

            fn visit_i64<E>(self, _: i64) -> Result<Part<T>, E> {
                Ok(Part::default())
            }

            fn visit_u64<E>(self, _: u64) -> Result<Part<T>, E> {
                Ok(Part::default())
            }

            fn visit_f64<E>(self, _: f64) -> Result<Part<T>, E> {
                Ok(Part::default())
            }

            fn visit_str<E>(self, _: &str) -> Result<Part<T>, E> {
                Ok(Part::default())
            }

            fn visit_unit<E>(self) -> Result<Part<T>, E> {
                Ok(Part::default())
            }
        }
        deserializer.deserialize_any(Fields(std::marker::PhantomData))
    }
}

/// The items of a list; none where there is something else than a list.
#[derive(Clone, Debug)]
pub(super) struct Items<T>(pub(super) Vec<T>);

impl<T> Default for Items<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Items<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct List<T>(std::marker::PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for List<T> {
            type Value = Items<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("anything")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Items<T>, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = seq.next_element()? {
                    items.push(item);
                }
                Ok(Items(items))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Items<T>, A::Error> {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Items::default())
            }

            fn visit_bool<E>(self, _: bool) -> Result<Items<T>, E> {
                Ok(Items::default())
            }

            fn visit_i64<E>(self, _: i64) -> Result<Items<T>, E> {
                Ok(Items::default())
            }

            fn visit_u64<E>(self, _: u64) -> Result<Items<T>, E> {
                Ok(Items::default())
            }

            fn visit_f64<E>(self, _: f64) -> Result<Items<T>, E> {
                Ok(Items::default())
            }

            fn visit_str<E>(self, _: &str) -> Result<Items<T>, E> {
                Ok(Items::default())
            }

            fn visit_unit<E>(self) -> Result<Items<T>, E> {
                Ok(Items::default())
            }
        }
        deserializer.deserialize_any(List(std::marker::PhantomData))
    }
}

/// One value, or what is wrong with what stands in its place.
#[derive(Clone, Debug, Default)]
pub(super) enum Leaf<T> {
    #[default]
    Absent,
    Good(T),
    Bad(String),
}

impl<'de, T: DeserializeOwned> Deserialize<'de> for Leaf<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        if value.is_null() {
            return Ok(Self::Absent);
        }
        Ok(match T::deserialize(value) {
            Ok(value) => Self::Good(value),
            Err(error) => Self::Bad(error.to_string()),
        })
    }
}

impl<T> Leaf<T> {
    pub(super) fn good(&self) -> Option<&T> {
        match self {
            Self::Good(value) => Some(value),
            Self::Absent | Self::Bad(_) => None,
        }
    }
}
