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

/** The sources of the package's entry points, by the exports map of package.json. */
function publicEntries(): string[] {
  const { exports } = JSON.parse(readFileSync(join(SRC, '../package.json'), 'utf8')) as { exports: Record<string, { default: string }> };
  return Object.values(exports).flatMap((entry) => {
    const path = entry.default.replace('./dist/', '').replace(/\.js$/, '.ts');
    const [before, after] = path.split('*');
    return files.filter((file) => {
      const name = relative(SRC, file);
      return after === undefined
        ? name === path
        : name.startsWith(before) && name.endsWith(after) && !name.slice(before.length, -after.length).includes('/');
    });
  });
}

function isClass(value: unknown): boolean {
  return typeof value === 'function' && /^class\b/.test(Function.prototype.toString.call(value));
}

/** Whether the docstring right before the declaration of that very class has an example. */
async function hasExample(name: string, value: unknown): Promise<boolean> {
  for (const file of files) {
    const text = readFileSync(file, 'utf8');
    const at = text.search(new RegExp(`^export (?:abstract )?class ${name}\\b`, 'm'));
    if (at < 0 || ((await import(file)) as Record<string, unknown>)[name] !== value) continue;
    const before = text.slice(0, at);
    return before.endsWith('*/\n') && before.slice(before.lastIndexOf('/**')).includes('@example');
  }
  return false;
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

  test('every class that the package exports has one', async () => {
    const without: string[] = [];
    for (const entry of publicEntries()) {
      const exported = Object.entries((await import(entry)) as Record<string, unknown>).filter(([, value]) => isClass(value));
      for (const [name, value] of exported) if (!(await hasExample(name, value))) without.push(name);
    }
    expect(without).toEqual([]);
  });

  test('a class without an example is found', async () => {
    const { Queue } = await import('../src/target/riscv/control/queue.ts');
    expect(isClass(Queue)).toBe(true);
    expect(await hasExample('Queue', Queue)).toBe(false);
  });

  test('there are examples', () => {
    expect(examples.length).toBeGreaterThan(1);
  });
});
