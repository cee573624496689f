//! `spec.clusterRanges` of the `MeshConfig`: addresses that are never outside the mesh.

use super::super::object::Origin;
use super::super::problem::Problem;
use super::MESH_CONFIG;
use crate::policy::IpBlock;

/// The declared ranges of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeclaredRanges {
    pub(in crate::model) blocks: Vec<IpBlock>,
    /// False while an entry cannot be read and no good version is known: then no address that
    /// nothing has counts as outside the mesh.
    pub(in crate::model) is_complete: bool,
}

impl Default for DeclaredRanges {
    fn default() -> Self {
        Self {
            blocks: Vec::new(),
            is_complete: true,
        }
    }
}

/// Reads the ranges. While one of them cannot be used, all stay as they are in `last_good`.
pub(super) fn ranges(
    texts: &[String],
    origin: &Origin,
    last_good: Option<&DeclaredRanges>,
    problems: &mut Vec<Problem>,
) -> DeclaredRanges {
    let mut blocks = Vec::with_capacity(texts.len());
    let mut is_complete = true;
    for (place, text) in texts.iter().enumerate() {
        match read(text) {
            Ok(block) => blocks.push(block),
            Err(message) => {
                is_complete = false;
                let stays = match last_good {
                    Some(_) => "until then the ranges in force stay",
                    None => "until then every address that no object has is refused",
                };
                problems.push(Problem::new(
                    origin,
                    MESH_CONFIG,
                    format!("spec.clusterRanges[{place}]"),
                    message,
                    format!("write a CIDR block, such as 10.244.0.0/16; {stays}"),
                ));
            }
        }
    }
    match (is_complete, last_good) {
        (false, Some(last_good)) => last_good.clone(),
        _ => DeclaredRanges {
            blocks,
            is_complete,
        },
    }
}

fn read(text: &str) -> Result<IpBlock, String> {
    let block = IpBlock::new(text).map_err(|error| error.to_string())?;
    match block.has_host_bits() {
        true => Err(format!(
            "{text:?} has bits beyond its prefix: {} is meant, or another",
            block.masked()
        )),
        false => Ok(block),
    }
}
