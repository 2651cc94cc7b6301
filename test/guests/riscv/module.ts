import { execFileSync } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { debianPackages } from '../../../src/cli/boot/debian.ts';
import type { ExtraModule } from '../../../src/cli/boot/initramfs.ts';

const NAME = 'viommu_domains';
/** A compiler that runs where the tests do. */
const COMPILER = ['gcc-12-riscv64-linux-gnu', 'cpp-12-riscv64-linux-gnu', 'binutils-riscv64-linux-gnu'];
const MILLISECONDS = 60_000;

/**
 * viommu_domains.c as a module of Debian's kernel, built from its header packages without its build system: a compiler's and a linker's run.
 * @throws UsageError when packages cannot be had; Error when it does not compile.
 */
export async function riscvModule(progress: (text: string) => void): Promise<ExtraModule> {
  const headers = await debianPackages({
    name: 'headers-forky-riscv64',
    what: "the kernel's headers",
    arch: 'riscv64',
    suite: 'forky',
    progress,
    wanted: async (apt) => {
      const [own] = await apt.dependencies('linux-headers-riscv64', /^linux-headers-[0-9]/);
      return [own!, ...(await apt.dependencies(own!, /^linux-headers-.*-common$/))];
    },
  });
  const compiler = await debianPackages({
    name: 'compiler-bookworm-riscv64',
    what: 'a compiler',
    arch: 'amd64',
    suite: 'bookworm',
    progress,
    wanted: async () => COMPILER,
  });
  const folders = readdirSync(join(headers, 'usr/src')).map((name) => join(headers, 'usr/src', name));
  const common = folders.find((folder) => folder.endsWith('-common'))!;
  const own = folders.find((folder) => folder.endsWith('-riscv64'))!;
  const program = (name: string, args: readonly string[]) =>
    execFileSync(join(compiler, 'usr/bin', `riscv64-linux-gnu-${name}`), args, {
      env: {
        ...process.env,
        LD_LIBRARY_PATH: join(compiler, 'usr/lib/x86_64-linux-gnu'),
        PATH: `${join(compiler, 'usr/bin')}:${process.env['PATH']}`,
      },
      timeout: MILLISECONDS,
      stdio: ['ignore', 'pipe', 'pipe'],
    });
  const build = mkdtempSync(join(tmpdir(), 'viommu-module-'));
  try {
    const object = join(build, 'module.o');
    const module = join(build, 'module.ko');
    program('gcc-12', [...flags(common, own), '-c', '-o', object, join(import.meta.dirname, `${NAME}.c`)]);
    program('ld', ['-r', '-T', join(own, 'arch/riscv/module.lds'), '-o', module, object]);
    return { name: NAME, content: readFileSync(module) };
  } finally {
    rmSync(build, { recursive: true, force: true });
  }
}

/** What the kernel's build system would say, as far as it matters to a module of one file. */
function flags(common: string, own: string): readonly string[] {
  const includes = ['', 'uapi'].flatMap((kind) => [
    `-I${join(common, 'arch/riscv/include', kind)}`,
    `-I${join(own, 'arch/riscv/include/generated', kind)}`,
    `-I${join(common, 'include', kind)}`,
    `-I${join(own, 'include', kind === '' ? '' : `generated/${kind}`)}`,
  ]);
  const first = ['compiler-version.h', 'kconfig.h', 'compiler_types.h'].flatMap((name) => [
    '-include',
    join(common, 'include/linux', name),
  ]);
  const names = ['KBUILD_MODNAME', 'KBUILD_BASENAME', 'KBUILD_MODFILE'].map((name) => `-D${name}="${NAME}"`);
  return [
    ...['-nostdinc', ...includes, ...first, '-D__KERNEL__', '-DMODULE', ...names, `-D__KBUILD_MODNAME=${NAME}`],
    ...['-std=gnu11', '-fms-extensions', '-mabi=lp64', '-march=rv64imac_zicsr_zifencei', '-mcmodel=medany', '-fno-pic'],
    ...['-O2', '-fno-strict-aliasing', '-fno-common', '-w'],
  ];
}
