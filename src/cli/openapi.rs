use super::Failure;

pub(super) fn run() -> Result<(), Failure> {
    say!("{}", crate::http::openapi_json().trim_end())
}
