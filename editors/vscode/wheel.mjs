// Builds the server's wheel into dist/server, with the versions of what it needs, from which the extension installs it.
//
// CODECLIPPY_SOURCE is the folder of the clone, PYTHON an interpreter with pip.

import { execFileSync } from 'node:child_process';
import { copyFileSync, mkdirSync, rmSync } from 'node:fs';

const source = process.env.CODECLIPPY_SOURCE ?? '../..';
rmSync('dist/server', { recursive: true, force: true });
mkdirSync('dist/server', { recursive: true });
const python = process.env.PYTHON ?? (process.platform === 'win32' ? 'python' : 'python3');
execFileSync(python, ['-m', 'pip', 'wheel', '-q', '--no-deps', '-w', 'dist/server', source], { stdio: 'inherit' });
copyFileSync(`${source}/constraints.txt`, 'dist/server/constraints.txt');
