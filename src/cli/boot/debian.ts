import { execFile } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { UsageError } from '../command.ts';
import { debianTools, findTool } from './tools.ts';

const run = promisify(execFile);

/** A guest's files: a stock kernel with its modules, and busybox. */
export interface DebianGuest {
  /** The kernel's release, as `uname -r` says it. */
  readonly release: string;
  readonly kernel: string;
  /** Folder of its modules: lib/modules/RELEASE. */
  readonly modules: string;
  readonly busybox: string;
}

const KEYRING = '/usr/share/keyrings/debian-archive-keyring.gpg';
const MIRROR = 'VIOMMU_DEBIAN_MIRROR';

/** Where guests are kept: VIOMMU_CACHE, or the user's cache. */
function cacheFolder(): string {
  return process.env['VIOMMU_CACHE'] ?? join(process.env['XDG_CACHE_HOME'] ?? join(homedir(), '.cache'), 'viommu');
}

/**
 * A Debian guest for a processor, fetched once. apt gets a state of its own, so that the machine's packages are not touched.
 * @throws UsageError when a tool is missing or the packages cannot be had.
 */
export async function debianGuest(arch: string, suite: string, progress: (text: string) => void): Promise<DebianGuest> {
  const wanted = async (apt: AptCache) => {
    const [image] = await apt.dependencies(`linux-image-${arch}`, /^linux-image-[0-9]/);
    if (image === undefined) throw new UsageError(`the mirror's ${suite} has no kernel for ${arch}`);
    // Newer kernels are split over packages.
    return [image, ...(await apt.dependencies(image, /^linux-(binary|modules)-[0-9]/)), 'busybox-static'];
  };
  const root = await debianPackages({ name: `guest-${suite}-${arch}`, what: "Debian's kernel and busybox", arch, suite, wanted, progress });
  const modulesRoot = existsSync(join(root, 'usr/lib/modules')) ? join(root, 'usr/lib/modules') : join(root, 'lib/modules');
  const [release] = namesIn(modulesRoot);
  const modules = join(modulesRoot, release ?? '');
  const kernels = namesIn(join(root, 'boot')).filter((name) => /^vmlinu[xz]-/.test(name));
  const kernel = [...kernels.map((name) => join(root, 'boot', name)), join(modules, 'vmlinuz')].find((path) => existsSync(path));
  const busybox = ['usr/bin/busybox', 'bin/busybox'].map((path) => join(root, path)).find((path) => existsSync(path));
  if (release === undefined || kernel === undefined || busybox === undefined)
    throw new UsageError(`${root} is not a whole guest: remove it, and it is fetched again`);
  return { release, kernel, modules, busybox };
}

/** What apt knows of a suite. */
export interface AptCache {
  /** Those of a package's dependencies whose names match. */
  dependencies(name: string, pattern: RegExp): Promise<readonly string[]>;
}

/** Packages that are wanted, and the name of their folder. */
export interface DebianWish {
  readonly name: string;
  /** For the user. */
  readonly what: string;
  readonly arch: string;
  readonly suite: string;
  readonly wanted: (apt: AptCache) => Promise<readonly string[]>;
  readonly progress: (text: string) => void;
}

/** Unpacks Debian packages into a folder of the cache, once; they are not installed. Returns the folder. @throws UsageError when they cannot be had. */
export async function debianPackages(wish: DebianWish): Promise<string> {
  const folder = join(cacheFolder(), wish.name);
  if (!existsSync(join(folder, 'ready'))) await fetchPackages(folder, wish);
  return join(folder, 'root');
}

async function fetchPackages(folder: string, { what, arch, suite, wanted, progress }: DebianWish): Promise<void> {
  for (const tool of debianTools) findTool(tool);
  if (!existsSync(KEYRING)) throw new UsageError(`there is no ${KEYRING}: apt-get install debian-archive-keyring`);
  const fresh = `${folder}.${process.pid}`;
  const apt = join(fresh, 'apt');
  rmSync(fresh, { recursive: true, force: true });
  for (const path of ['lists/partial', 'archives/partial']) mkdirSync(join(apt, path), { recursive: true });
  writeFileSync(join(apt, 'sources.list'), `deb [arch=${arch} signed-by=${KEYRING}] ${mirror()} ${suite} main\n`);
  writeFileSync(join(apt, 'status'), '');
  const settings = {
    'APT::Architecture': arch,
    'APT::Architectures': arch,
    'APT::Sandbox::User': 'root',
    'Dir::State': apt,
    'Dir::State::lists': join(apt, 'lists'),
    'Dir::State::status': join(apt, 'status'),
    'Dir::Cache': apt,
    'Dir::Cache::archives': join(apt, 'archives'),
    'Dir::Etc::sourcelist': join(apt, 'sources.list'),
    'Dir::Etc::sourceparts': '/dev/null',
    'Dir::Etc::preferencesparts': '/dev/null',
  };
  const options = Object.entries(settings).flatMap(([name, value]) => ['-o', `${name}=${value}`]);
  const command = async (program: string, ...args: string[]) =>
    (await run(program, [...options, ...args], { cwd: fresh, maxBuffer: 1 << 26, timeout: 600_000 })).stdout;
  const cache: AptCache = {
    dependencies: async (name, pattern) => {
      const said = await command('apt-cache', 'depends', name);
      return [...said.matchAll(/ Depends: (\S+)/g)].map(([, found]) => found!).filter((found) => pattern.test(found));
    },
  };
  try {
    progress(`fetching ${what} for ${arch}`);
    await command('apt-get', '-qq', 'update');
    await command('apt-get', '-qq', 'download', ...(await wanted(cache)));
    progress('unpacking');
    for (const name of packagesIn(fresh)) await run('dpkg-deb', ['-x', join(fresh, name), join(fresh, 'root')]);
  } catch (error) {
    rmSync(fresh, { recursive: true, force: true });
    if (error instanceof UsageError) throw error;
    const { stderr, message } = error as Error & { stderr?: string };
    throw new UsageError(`Debian's packages for ${arch} cannot be had: ${(stderr || message).trim().split('\n').at(-1)}`);
  }
  for (const name of [...packagesIn(fresh), 'apt', 'root/usr/share/doc']) rmSync(join(fresh, name), { recursive: true, force: true });
  writeFileSync(join(fresh, 'ready'), '');
  rmSync(folder, { recursive: true, force: true });
  renameSync(fresh, folder);
}

/** What a folder has; nothing, if there is none. */
function namesIn(folder: string): readonly string[] {
  return existsSync(folder) ? readdirSync(folder) : [];
}

/** The mirror that this machine's own apt uses. @throws UsageError when it uses none of Debian's. */
function mirror(): string {
  const named = process.env[MIRROR];
  if (named !== undefined) return named;
  const folder = '/etc/apt/sources.list.d';
  const files = existsSync(folder) ? readdirSync(folder).map((name) => join(folder, name)) : [];
  for (const file of ['/etc/apt/sources.list', ...files]) {
    if (!existsSync(file)) continue;
    const found = /https?:\/\/\S+\/debian\/?(?=\s|$)/m.exec(readFileSync(file, 'utf8'));
    if (found !== null) return found[0];
  }
  throw new UsageError(`apt knows no Debian mirror here: ${MIRROR} names one`);
}

function packagesIn(folder: string): readonly string[] {
  return readdirSync(folder).filter((name) => name.endsWith('.deb'));
}
