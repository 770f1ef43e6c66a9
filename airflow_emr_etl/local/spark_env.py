"""How Spark is started on this machine: the Java command, the settings that show it ``s3://``, and a class archive.

Most of the seconds before a small step's first output go into loading the same 17,000 classes. Java can map
them from an archive instead (class-data sharing), which halves the time. The archive is made once for a Java and
a PySpark, in the background and at the lowest priority, and kept in the user's cache folder.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import importlib.util
import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from xml.etree import ElementTree

from airflow_emr_etl.exceptions import LocalAwsError
from airflow_emr_etl.local.java import VECTOR_MODULE, Java, find_java
from airflow_emr_etl.local.spark import CLASS_LIST, FILE_SYSTEM_CLASS, FILE_SYSTEM_JAR

MAIN_CLASS = "org.apache.spark.deploy.SparkSubmit"
# A short-lived JVM gains more from starting quickly than from the best code or collector.
_QUICK_START = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")
_ARCHIVE_BYTES = 400 * 1024 * 1024
DEFAULT_DRIVER_MEMORY_MIB = 2048
MAX_CORES = 8


def cache_folder(environ: Mapping[str, str] | None = None) -> Path:
    """Where what is worth keeping between state folders lies: ``$XDG_CACHE_HOME`` or ``~/.cache``."""
    environ = os.environ if environ is None else environ
    base = environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "airflow_emr_etl"


class SparkEnvironment:
    """Starts Spark with the PySpark that is installed. Nothing is looked up or run before it is first asked for."""

    def __init__(
        self,
        cache: Path | None = None,
        environ: Mapping[str, str] | None = None,
        *,
        share_classes: bool = True,
    ) -> None:
        """``cache`` must be writable; by default the user's cache folder. ``environ`` is where Java is looked for.

        Without ``share_classes`` no class archive is made or used.
        """
        self._cache = cache or cache_folder()
        self._share_classes = share_classes
        self._environ = environ
        self._lock = threading.Lock()
        self._archiver: subprocess.Popen[bytes] | None = None
        self._closed = False

    @cached_property
    def home(self) -> Path:
        spec = importlib.util.find_spec("pyspark")
        if spec is None or not spec.submodule_search_locations:
            raise LocalAwsError(
                "Spark is not installed. Install it with: pip install 'airflow-emr-etl[local]'"
            )
        return Path(spec.submodule_search_locations[0])

    def example(self, name: str) -> Path:
        """A program of PySpark's examples. Raises LocalAwsError when this PySpark brings none."""
        found = self.home / "examples" / "src" / "main" / "python" / name
        if not found.is_file():
            raise LocalAwsError(f"The installed PySpark ({self.spark_version}) has no example {name}.")
        return found

    @cached_property
    def spark_version(self) -> str:
        return version("pyspark")

    @cached_property
    def java(self) -> Java:
        self._cache.mkdir(parents=True, exist_ok=True)
        return find_java(self._cache, self._environ)

    @property
    def file_system_jar(self) -> Path:
        return FILE_SYSTEM_JAR

    @property
    def cores(self) -> int:
        usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return max(1, min(usable, MAX_CORES))

    @property
    def memory_limit_mib(self) -> int:
        """The most that one driver gets: half of the machine."""
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return max(512, total // 2 // (1024 * 1024))

    def settings(self, objects: Path, scratch: Path) -> dict[str, str]:
        """Spark properties that hold for each step; ``scratch`` is the step's own and on the objects' disk."""
        committer = "org.apache.hadoop.mapreduce.lib.output.FileOutputCommitterFactory"
        settings = {
            "spark.master": f"local[{self.cores}]",
            "spark.submit.deployMode": "client",
            "spark.driver.host": "127.0.0.1",
            "spark.driver.bindAddress": "127.0.0.1",
            "spark.hadoop.fs.objectfolder.root": str(objects),
            "spark.hadoop.fs.objectfolder.scratch": str(scratch),
            "spark.sql.streaming.checkpointFileManagerClass": (
                "org.apache.spark.sql.execution.streaming.checkpointing.FileSystemBasedCheckpointFileManager"
            ),
        }
        for scheme in ("s3", "s3a", "s3n"):
            settings[f"spark.hadoop.fs.{scheme}.impl"] = FILE_SYSTEM_CLASS
            settings[f"spark.hadoop.mapreduce.outputcommitter.factory.scheme.{scheme}"] = committer
        return settings

    def defaults(self) -> dict[str, str]:
        """Spark properties for a laptop, where nobody has set them."""
        return {
            "spark.ui.enabled": "false",
            "spark.ui.showConsoleProgress": "false",
            "spark.sql.shuffle.partitions": str(max(2, self.cores)),
        }

    def submit_command(
        self,
        arguments: list[str],
        memory_mib: int,
        java_options: list[str],
        class_path: list[str],
        *,
        with_archive: bool = True,
    ) -> list[str]:
        """The command that ``spark-submit`` would end in, without its launcher JVM and with the class archive."""
        options, spark_class_path = self._launch
        usable = with_archive and self._share_classes and self.archive.is_file()
        sharing = [f"-XX:SharedArchiveFile={self.archive}"] if usable else []
        return [
            str(self.java.executable),
            "-cp",
            os.pathsep.join([spark_class_path, *class_path]),
            f"-Xmx{memory_mib}m",
            *options,
            *_QUICK_START,
            *sharing,
            # Never a word about the archive on stdout, which belongs to the step.
            "-Xshare:auto",
            "-Xlog:disable",
            "-Xlog:all=error:stderr",
            *java_options,
            MAIN_CLASS,
            *arguments,
        ]

    def file_system_command(self, configuration: Path) -> list[str]:
        """What ``hadoop fs`` is here; its arguments follow. ``configuration`` is a folder with :meth:`core_site`."""
        _, spark_class_path = self._launch
        return [
            str(self.java.executable),
            "-cp",
            os.pathsep.join([str(configuration), spark_class_path]),
            "-Xmx512m",
            *_QUICK_START,
            "org.apache.hadoop.fs.FsShell",
        ]

    def core_site(self, objects: Path, scratch: Path) -> str:
        """``core-site.xml`` for Hadoop's own programs."""
        prefix = "spark.hadoop."
        root = ElementTree.Element("configuration")
        for key, value in self.settings(objects, scratch).items():
            if key.startswith(prefix):
                entry = ElementTree.SubElement(root, "property")
                ElementTree.SubElement(entry, "name").text = key.removeprefix(prefix)
                ElementTree.SubElement(entry, "value").text = value
        return ElementTree.tostring(root, encoding="unicode")

    def variables(self) -> dict[str, str]:
        """Environment variables for a program that starts Spark by itself, such as ``spark-submit`` in a script."""
        return {
            "JAVA_HOME": str(self.java.home),
            "SPARK_HOME": str(self.home),
            "SPARK_LOCAL_IP": "127.0.0.1",
        }

    @cached_property
    def _launch(self) -> tuple[list[str], str]:
        """(JVM options, class path) as Spark's own launcher gives them, with our file system first."""
        jars = self.home / "jars"
        found = subprocess.run(
            [
                *[str(self.java.executable), "-Xmx128m", "-cp", f"{jars}/*"],
                *["org.apache.spark.launcher.Main", MAIN_CLASS, "application.py"],
            ],
            env={
                "SPARK_HOME": str(self.home),
                "JAVA_HOME": str(self.java.home),
                "SPARK_SCALA_VERSION": "2.13",
                "PATH": os.environ.get("PATH", os.defpath),
            },
            capture_output=True,
            check=False,
            timeout=120,
        )
        words = found.stdout.decode().lstrip("\0\n").split("\0")
        if found.returncode != 0 or "-cp" not in words or MAIN_CLASS not in words:
            raise LocalAwsError(
                f"Spark's launcher does not run on {self.java.executable}: {found.stderr.decode()[-500:]}"
            )
        at = words.index("-cp")
        options = [each for each in words[at + 2 : words.index(MAIN_CLASS)] if not each.startswith("-Xmx")]
        if not self.java.has_vector_module:
            options = [each for each in options if each != VECTOR_MODULE]
        configuration = str(self.home / "conf")
        entries = [
            each for each in words[at + 1].split(os.pathsep) if each.rstrip("/") not in ("", configuration)
        ]
        return options, os.pathsep.join([str(FILE_SYSTEM_JAR), *entries])

    # The class archive

    @cached_property
    def archive(self) -> Path:
        identity = "\n".join(
            [
                str(self.java.executable),
                self.java.build,
                str(self.home),
                self.spark_version,
                hashlib.sha256(FILE_SYSTEM_JAR.read_bytes()).hexdigest(),
                hashlib.sha256(CLASS_LIST.read_bytes()).hexdigest(),
            ]
        )
        digest = hashlib.sha256(identity.encode()).hexdigest()[:16]
        return self._cache / f"spark-{self.spark_version}-java-{self.java.version}-{digest}.jsa"

    def make_archive(self) -> threading.Thread | None:
        """Start to make the class archive in the background, unless it is there or on its way.

        Takes half a minute of an idle core. Returns the thread, for who wants to wait. Without an archive
        everything works, slower; so a failure is silent.
        """
        with self._lock:
            if not self._share_classes or self._closed or self._archiver or self.archive.is_file():
                return None
            with contextlib.suppress(OSError, LocalAwsError):
                if shutil.disk_usage(self._cache).free < 4 * _ARCHIVE_BYTES:
                    return None
                self._remove_abandoned()
                work = Path(tempfile.mkdtemp(prefix=".archive-", dir=self._cache))
                classes, part = work / "classes", work / "archive.jsa"
                classes.write_bytes(gzip.decompress(CLASS_LIST.read_bytes()))
                options, class_path = self._launch
                self._archiver = subprocess.Popen(
                    [
                        *["nice", "-n", "19", str(self.java.executable), "-Xshare:dump"],
                        *[f"-XX:SharedClassListFile={classes}", f"-XX:SharedArchiveFile={part}"],
                        *["-cp", class_path, *options, *_QUICK_START],
                        *["-Xlog:disable", "-Xlog:all=off"],
                    ],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,
                )
                thread = threading.Thread(
                    target=self._await_archive, args=(self._archiver, work, part), daemon=True
                )
                thread.start()
                return thread
        return None

    def _await_archive(self, archiver: subprocess.Popen[bytes], work: Path, part: Path) -> None:
        succeeded = archiver.wait() == 0
        with contextlib.suppress(OSError):
            if succeeded and part.is_file():
                part.replace(self.archive)
                self._remove_old_archives()
        shutil.rmtree(work, ignore_errors=True)
        if succeeded:
            with self._lock:
                self._archiver = None

    def _remove_old_archives(self) -> None:
        """Keep the three newest: one is 200 MB."""
        found = sorted(self._cache.glob("spark-*.jsa"), key=lambda each: each.stat().st_mtime, reverse=True)
        for old in found[3:]:
            old.unlink(missing_ok=True)

    def _remove_abandoned(self) -> None:
        """What a server that was killed has left of an archive in the making."""
        for folder in self._cache.glob(".archive-*"):
            if time.time() - folder.stat().st_mtime > 3600:
                shutil.rmtree(folder, ignore_errors=True)

    def close(self) -> None:
        """End the making of an archive, if it is going on."""
        with self._lock:
            self._closed = True
            archiver = self._archiver
        if archiver is not None and archiver.poll() is None:
            archiver.kill()
            archiver.wait()
