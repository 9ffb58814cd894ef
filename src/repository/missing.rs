//! Whether a manifest may refer to blobs that its repository does not have.

use std::str::FromStr;

use crate::oci::{ByRepository, Exceptions, RepositoryName};

/// What happens to a manifest whose config or layers are not in its repository.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum MissingBlobs {
    /// It is refused: what is listed can be pulled as a whole.
    #[default]
    Refuse,
    /// It is stored. Its blobs may be pushed later, or never: a sparse image.
    Accept,
}

impl FromStr for MissingBlobs {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        match s {
            "refuse" => Ok(Self::Refuse),
            "accept" => Ok(Self::Accept),
            _ => Err("one of refuse, accept".to_owned()),
        }
    }
}

impl ByRepository for MissingBlobs {
    const EXAMPLE: &'static str = "team/app=refuse mirror/*=accept";
}

/// The rules that choose by repository.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MissingBlobsRules {
    /// For all repositories without an exception.
    pub usual: MissingBlobs,
    /// The repositories where it is different.
    pub exceptions: Exceptions<MissingBlobs>,
}

impl MissingBlobsRules {
    /// What happens in a repository.
    pub fn of(&self, name: &RepositoryName) -> MissingBlobs {
        self.exceptions.of(name).unwrap_or(self.usual)
    }
}
