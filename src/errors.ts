/** A command-line flag, an environment variable or the machine itself is not as needed; shown without a stack. */
export class SetupError extends Error {
  override name = "SetupError";
}
