//! Names that `oci-spec` spells otherwise than the specification, so that a right document does
//! not parse. Only a document that has not parsed is looked at.

/// As the specification has it, and as `oci-spec` does.
const NAMES: [(&str, &str); 2] = [
    ("\"SCHED_FLAG_RESET_ON_FORK\"", "\"SCHED_RESET_ON_FORK\""),
    ("\"SCHED_FLAG_DL_OVERRUN\"", "\"SCHED_FLAG_D_L_OVERRUN\""),
];

/// The document in the spelling of the types; none when it is that already. A text between
/// quotation marks that is one of these names means nothing else anywhere in a configuration.
pub(super) fn as_the_types_have_it(document: &[u8]) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(document).ok()?;
    if NAMES.iter().all(|(name, _)| !text.contains(name)) {
        return None;
    }
    let respelt =
        NAMES.iter().fold(text.to_owned(), |text, (name, as_typed)| text.replace(name, as_typed));
    Some(respelt.into_bytes())
}
