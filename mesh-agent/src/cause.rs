//! What an error says with its causes: the outermost layer seldom says what happened. For
//! messages of `ca`, `config` and `install`.

use std::error::Error;

/// `said`, and what each of the causes from `cause` on says that is not in it yet: many errors
/// have their cause's words in their own.
pub(crate) fn with_causes(mut said: String, mut cause: Option<&(dyn Error + 'static)>) -> String {
    while let Some(error) = cause {
        let words = error.to_string();
        if !said.contains(&words) {
            said = format!("{said}: {words}");
        }
        cause = error.source();
    }
    said
}
