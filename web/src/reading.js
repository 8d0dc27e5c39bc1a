/**
 * What the tokenizer makes of a prompt, as conjure_lib/reading.py says it: what is read, what is
 * lost, and what becomes the same. A character is not read where the tokens stay the same without
 * it, or with another in its place.
 */

const SHOWN = 6; // things that a sentence names
const visible = (c) => !/[\p{Z}\p{M}\p{Cc}\p{Cf}\u115f\u1160\u2800\u3164\uffa0]/u.test(c);
const blank = /[\p{Z}\t-\r\x1c-\x1f\x85]/u; // what Python's isspace says
const drawn = /[\p{L}\p{N}\p{P}\p{S}]/u;
const point = (c) => `U+${c.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}`;
const quoted = (text) => (drawn.test(text) ? `“${text}”` : [...text].map(point).join(" "));

/** A text in small letters, each by itself. */
export const small = (text) => [...text].map((c) => c.toLowerCase()).join("");

/** Why a text cannot be a prompt: "is empty", "is blank", …; null where it can. */
export function fault(text) {
  if (!text) return "is empty: write some text";
  const broken = [...text].findIndex((c) => /\p{Cs}/u.test(c));
  if (broken >= 0) {
    const half = point([...text][broken]);
    return (
      `holds half a character at position ${broken} (${half} alone): it was read in another ` +
      "encoding than its own; read or type it as UTF-8"
    );
  }
  if ([...text].some(visible)) return null;
  const hidden = [...new Set(text)].filter((c) => !blank.test(c)).map(point);
  return `is blank${hidden.length ? ` (nothing of ${hidden.join(" ")} can be seen)` : ""}: write some text`;
}

/**
 * What is read of a prompt: {read, written, lost, folded}. The first two count tokens; `lost` says
 * in sentences what is not read, `folded` what is read as something that means the same to most.
 */
export function reading(reader, prompt) {
  const { ids, tokens } = reader.tokenize(prompt);
  const lost = [];
  const cut = tokens.slice(reader.room);
  if (cut.length) {
    const text = cut.join(" ").replaceAll(" ##", "").replace(/^##/, "");
    lost.push(
      `the text encoder reads ${reader.room} tokens and this prompt has ${ids.length}: ` +
        `the last ${cut.length} are cut (“${text}”)`,
    );
  }
  const kept = tokens.slice(0, reader.room);
  const { dropped, replaced, folded } = trials(reader, prompt, ids.join());
  const unread = [...unknown(reader, prompt).map(quoted), ...dropped.map(quoted)];
  if (unread.length) lost.push(`the text encoder does not read ${list(unread)}`);
  if (replaced.length) lost.push(`the text encoder reads ${list(replaced)}`);
  const read = kept.filter((token) => !reader.special.has(token)).length;
  return { read, written: ids.length, lost, folded };
}

/** The words among the first tokens that the tokenizer does not know, neighbours as one. */
function unknown(reader, prompt) {
  const found = [];
  let count = 0;
  for (const word of reader.words(prompt)) {
    const tokens = reader.special.has(word) ? [word] : reader.tokenize(word).tokens;
    if (count >= reader.room) break;
    count += tokens.length;
    if (!tokens.some((token) => reader.special.has(token))) continue;
    const longer = found.at(-1) + word;
    if (found.length && prompt.includes(longer)) found[found.length - 1] = longer;
    else found.push(word);
  }
  return [...new Set(found)];
}

/** The characters without which, or with others in whose place, the tokens stay the same. */
function trials(reader, prompt, told) {
  const same = (text) => reader.tokenize(text).ids.join() === told;
  const found = { dropped: [], replaced: [], folded: [] };
  for (const c of new Set(prompt)) {
    if (/[ -~\ufe00-\ufe0f]/.test(c) || blank.test(c)) continue;
    if (/[\p{C}\p{Mn}\p{Sk}\ufffd]/u.test(c) && same(prompt.replaceAll(c, ""))) found.dropped.push(c);
    else if (/\p{C}/u.test(c) && same(prompt.replaceAll(c, " "))) {
      found.folded.push(`${point(c)} is read as a space`);
    }
    const bare = c.normalize("NFD").replace(/\p{Mn}/gu, "").normalize("NFC");
    for (const plain of new Set([bare, c.normalize("NFKC")])) {
      if (["", c, c.normalize("NFC")].includes(plain)) continue;
      if (!same(prompt.replaceAll(c, plain))) continue;
      const folds = c.normalize("NFKC") === plain.normalize("NFKC");
      if (folds) found.folded.push(`“${c}” is read as “${plain}”`);
      else found.replaced.push(`“${c}” as “${plain}”`);
    }
  }
  if (small(prompt) !== prompt && same(small(prompt))) found.folded.push("capitals are read as small letters");
  return found;
}

function list(items) {
  const more = items.length - SHOWN;
  return items.slice(0, SHOWN).join(", ") + (more > 0 ? ` and ${more} more` : "");
}
