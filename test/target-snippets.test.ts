import { execFileSync, spawnSync } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';

/* The code on the pages of docs/targets: it compiles with what a reader has before it, and does what its comments say. */

const root = join(import.meta.dirname, '..');
const folder = mkdtempSync(join(tmpdir(), 'viommu-snippets-'));

interface Page {
  /** What the reader has already. */
  readonly before: string;
  /** What is printed of it afterwards, and what that should be. */
  readonly after: string;
  readonly printed: readonly unknown[];
}

const pages: Readonly<Record<string, Page>> = {
  riscv: {
    before: `import { GuestMemory } from 'viommu/memory';
import { type AtsMessage, RiscvIommu, riscvCapabilities } from 'viommu/target/riscv';
import { NO_PASID, WRITE } from 'viommu';
const memory = GuestMemory.ofBytes(1 << 20);
const capabilities = riscvCapabilities();
const wire = (_vector: number, _asserted: boolean) => {};
const storeDevice = (_address: bigint, _value: number) => true;
const sendMessage = (_message: AtsMessage) => {};
const orderRequests = (_reads: boolean, _writes: boolean) => {};
const cycles = () => 0;
const [ddtp, hi, lo] = [1n, 0, 0x5000];`,
    after: '[iommu.read(16, 8) === ddtp, iommu.translate(0x0008, NO_PASID, hi, lo, WRITE) >= 12, iommu.translated[0]]',
    printed: [true, true, 0x5000],
  },
  vtd: {
    before: `import { GuestMemory } from 'viommu/memory';
import { type DeviceInvalidation, type PageGroupResponse, VtdIommu } from 'viommu/target/vtd';
import { dmarTable } from 'viommu/vmm';
import { NO_PASID, WRITE } from 'viommu';
const memory = GuestMemory.ofBytes(1 << 20);
const sendInterrupt = (_address: bigint, _data: number) => {};
const interruptsChanged = (_first: number, _last: number) => {};
const invalidateDevice = (_request: DeviceInvalidation) => {};
const respond = (_response: PageGroupResponse) => {};
const [hi, lo] = [0, 0x5000];`,
    // Translation is on (GSTS_REG.TES), over a root table of zeroes: a fault. Interrupts are not remapped yet.
    after: `[iommu.read(0x1c, 4) >> 31n === 1n, iommu.translate(0x0028, NO_PASID, hi, lo, WRITE) < 0, iommu.remap(0x0028, 0xfee0_1000, 0x41) === 0, iommu.interrupt.vector,
  new TextDecoder().decode(dmarTable({ hostAddressWidth: 48, interruptRemapping: true, units: [{ registers: 0xfed9_0000n, includeAll: true }] }).subarray(0, 4))]`,
    printed: [true, true, true, 0x41, 'DMAR'],
  },
  zpci: {
    before: `import { GuestMemory } from 'viommu/memory';
import { type Answer, CC, GeneralRegisters, UNFINISHED, ZpciIommu } from 'viommu/target/zpci';
const iommu = new ZpciIommu({ memory: GuestMemory.ofBytes(1 << 20), functions: [] });
const [r1, r2] = [1, 2];`,
    after:
      '(() => { const told: Answer[] = []; refresh({ registers: new GeneralRegisters(), present: (answer) => told.push(answer) }); return [told.length, told[0] === CC.handle]; })()',
    printed: [1, true],
  },
};

function snippetsOf(page: string): readonly string[] {
  const text = readFileSync(join(root, 'docs/targets', page), 'utf8');
  return [...text.matchAll(/^```ts\n([\s\S]*?)^```/gm)].map(([, code]) => code!);
}

const fileOf = (name: string) => join(folder, `${name}.mts`);

beforeAll(() => {
  symlinkSync(join(root, 'node_modules'), join(folder, 'node_modules'));
  for (const [name, { before, after }] of Object.entries(pages)) {
    const [code = ''] = snippetsOf(`${name}.md`);
    writeFileSync(fileOf(name), `${before}\n${code}\nconsole.log(JSON.stringify(${after}));\n`);
  }
  const paths = { viommu: [join(root, 'src/index.ts')], 'viommu/*': [join(root, 'src/*/index.ts')] };
  writeFileSync(
    join(folder, 'tsconfig.json'),
    JSON.stringify({ extends: join(root, 'tsconfig.json'), compilerOptions: { paths, types: ['node'] }, include: ['*.mts'] }),
  );
});
afterAll(() => rmSync(folder, { recursive: true }));

test('every page with code is here, and has one piece of it', () => {
  const withCode = readdirSync(join(root, 'docs/targets')).filter((page) => snippetsOf(page).length > 0);
  expect(withCode.map((page) => [page, snippetsOf(page).length])).toEqual(Object.keys(pages).map((name) => [`${name}.md`, 1]));
});

test('all of it compiles, with the types of what is handed in', { timeout: 120_000 }, () => {
  const { stdout, stderr } = spawnSync(join(root, 'node_modules/.bin/tsc'), ['--pretty', 'false', '-p', folder], { encoding: 'utf8' });
  expect(stdout + stderr).toBe('');
});

test.each(Object.entries(pages))('%s', { timeout: 60_000 }, (name, { printed }) => {
  const out = execFileSync(process.execPath, ['--import', 'tsx', fileOf(name)], {
    cwd: root,
    env: { ...process.env, TSX_TSCONFIG_PATH: join(folder, 'tsconfig.json') },
    encoding: 'utf8',
  });
  expect(JSON.parse(out)).toEqual(printed);
});
