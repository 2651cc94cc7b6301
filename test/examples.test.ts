import { readdirSync, readFileSync } from 'node:fs';
import { join, relative } from 'node:path';
import { describe, expect, test } from 'vitest';

/*
 * Every `@example` of a docstring in src/ is run: plain JavaScript up to the next tag or the end of the comment. What the example's own file and the
 * package's entry points export is in scope. A comment behind a statement that begins with a literal says what the statement gives:
 *
 *   get(words, MODE); // 8
 */

const SRC = join(import.meta.dirname, '../src');

interface Example {
  readonly file: string;
  readonly line: number;
  readonly code: string;
}

const files = readdirSync(SRC, { recursive: true, encoding: 'utf8' })
  .filter((file) => file.endsWith('.ts'))
  .map((file) => join(SRC, file));

function examplesOf(file: string): Example[] {
  const lines = readFileSync(file, 'utf8').split('\n');
  return lines.flatMap((text, at) => {
    if (!/^\s*\* @example/.test(text)) return [];
    const code: string[] = [];
    for (let i = at + 1; /^\s*\*(?!\/)/.test(lines[i]) && !/^\s*\* @\w/.test(lines[i]); i++) code.push(lines[i].replace(/^\s*\* ?/, ''));
    return [{ file, line: at + 1, code: code.filter((line) => !line.startsWith('```')).join('\n') }];
  });
}

const LITERAL = /^(-?0x[\da-f_]+n?|-?\d[\d_]*(?:\.\d+)?n?|true|false|null|undefined|'[^']*'|\[[^\]]*\])(?=$|[:,;. ])/;

/** The example with each literal behind a statement made an expectation. Statements that are compared stand on a line of their own. */
function withExpectations(code: string): string {
  return code
    .split('\n')
    .map((line) => {
      const [, statement, comment] = /^(.*?);\s*\/\/ (.*)$/.exec(line) ?? [];
      const literal = LITERAL.exec(comment ?? '')?.[1];
      if (literal === undefined) return line;
      const declared = /^(?:const|let) (\w+) = /.exec(statement)?.[1];
      return declared === undefined
        ? `expect(${statement}).toEqual(${literal});`
        : `${statement}; expect(${declared}).toEqual(${literal});`;
    })
    .join('\n')
    .replace(/^import .*$/gm, '');
}

async function scopeOf(file: string): Promise<Record<string, unknown>> {
  const entries = files.filter((name) => name.endsWith('/index.ts') && !relative(SRC, name).startsWith('cli'));
  const modules = await Promise.all([...entries, join(SRC, 'memory/access.ts'), file].map((name) => import(name)));
  return Object.assign({}, ...modules, { expect });
}

const AsyncFunction = (async () => undefined).constructor as new (...parts: string[]) => (...values: unknown[]) => Promise<void>;

describe('examples of docstrings', () => {
  const examples = files.flatMap(examplesOf);

  test.each(examples.map((example) => [`${relative(SRC, example.file)}:${example.line}`, example] as const))(
    '%s',
    async (_, { file, code }) => {
      const scope = await scopeOf(file);
      const declared = new Set([...code.matchAll(/\b(?:const|let|class|function) (\w+)/g)].map(([, name]) => name));
      const names = Object.keys(scope).filter((name) => /^\w+$/.test(name) && name !== 'default' && !declared.has(name));
      await new AsyncFunction(...names, `'use strict';\n${withExpectations(code)}`)(...names.map((name) => scope[name]));
    },
  );

  test('a wrong example fails', async () => {
    const run = (code: string) => new AsyncFunction('expect', withExpectations(code))(expect);
    await run('1 + 1; // 2: two');
    await run('const two = 1 + 1; // 2');
    await expect(run('1 + 1; // 3')).rejects.toThrow();
    await expect(run('const two = 1 + 1; // 3')).rejects.toThrow();
    await expect(run('nobody();')).rejects.toThrow(ReferenceError);
  });

  test('there are examples', () => {
    expect(examples.length).toBeGreaterThan(1);
  });
});
