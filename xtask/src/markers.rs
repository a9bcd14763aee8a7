//! Parts of README.md that commands write, between marker lines.

use anyhow::{Context as _, Result};

/// `text` with what stands between the two marker lines of `name` replaced.
pub(crate) fn replace_between(text: &str, name: &str, with: &str) -> Result<String> {
    let [begin, end] = ["begin", "end"].map(|which| format!("<!-- {name}:{which} -->"));
    let (before, rest) = text
        .split_once(&begin)
        .with_context(|| format!("it holds no line {begin}"))?;
    let (_, after) = rest
        .split_once(&end)
        .with_context(|| format!("it holds no line {end} after {begin}"))?;
    Ok(format!("{before}{begin}\n\n{with}\n{end}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_between_the_markers_is_replaced() {
        let text = "a\n<!-- it:begin -->\nold\n<!-- it:end -->\nz\n";
        assert_eq!(
            replace_between(text, "it", "new\n").expect("it has markers"),
            "a\n<!-- it:begin -->\n\nnew\n\n<!-- it:end -->\nz\n"
        );
        assert!(replace_between(text, "other", "new").is_err());
        assert!(replace_between("<!-- it:end -->", "it", "new").is_err());
    }
}
