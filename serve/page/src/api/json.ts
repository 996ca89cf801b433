/**
 * JSON whose seeds are texts on this side: JavaScript's numbers hold 53 bits, a seed has 64.
 *
 * Inside a text of JSON the quotes are escaped, so that `"seed":` can only be a key.
 */

const SEED_NUMBER = /("(?:variation_)?seed":\s*)(\d+)/g;
const SEED_TEXT = /("(?:variation_)?seed":)"(\d+)"/g;

export function parse(text: string): unknown {
  return JSON.parse(text.replace(SEED_NUMBER, '$1"$2"'));
}

export function stringify(value: unknown): string {
  return JSON.stringify(value).replace(SEED_TEXT, "$1$2");
}
