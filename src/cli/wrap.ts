/** Text in lines of at most `columns`; the first begins with `head`, the others are indented as far. A word that is longer stands alone. */
export function wrapped(head: string, text: string, columns: number): string[] {
  const lines: string[] = [];
  let line = head;
  let begun = false;
  for (const word of text.split(' ')) {
    if (begun && line.length + 1 + word.length > columns) {
      lines.push(line);
      line = ' '.repeat(head.length);
      begun = false;
    }
    line += begun ? ` ${word}` : word;
    begun = true;
  }
  lines.push(line);
  return lines;
}
