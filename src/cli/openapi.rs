use super::Failure;

pub(super) fn run() -> Result<(), Failure> {
    print!("{}", crate::http::openapi_json());
    Ok(())
}
