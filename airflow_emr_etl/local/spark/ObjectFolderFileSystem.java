package airflow_emr_etl.local;

import java.io.EOFException;
import java.io.File;
import java.io.FileNotFoundException;
import java.io.IOException;
import java.io.OutputStream;
import java.net.URI;
import java.nio.ByteBuffer;
import java.nio.channels.FileChannel;
import java.nio.file.AtomicMoveNotSupportedException;
import java.nio.file.DirectoryNotEmptyException;
import java.nio.file.FileSystemException;
import java.nio.file.Files;
import java.nio.file.NoSuchFileException;
import java.nio.file.NotDirectoryException;
import java.nio.file.StandardCopyOption;
import java.nio.file.StandardOpenOption;
import java.nio.file.attribute.BasicFileAttributes;
import java.util.Arrays;
import java.util.EnumSet;
import java.util.UUID;
import org.apache.hadoop.conf.Configuration;
import org.apache.hadoop.fs.BufferedFSInputStream;
import org.apache.hadoop.fs.CreateFlag;
import org.apache.hadoop.fs.FSDataInputStream;
import org.apache.hadoop.fs.FSDataOutputStream;
import org.apache.hadoop.fs.FSExceptionMessages;
import org.apache.hadoop.fs.FSInputStream;
import org.apache.hadoop.fs.FileAlreadyExistsException;
import org.apache.hadoop.fs.FileStatus;
import org.apache.hadoop.fs.FileSystem;
import org.apache.hadoop.fs.FileUtil;
import org.apache.hadoop.fs.ParentNotDirectoryException;
import org.apache.hadoop.fs.Path;
import org.apache.hadoop.fs.PathIsNotEmptyDirectoryException;
import org.apache.hadoop.fs.permission.FsPermission;
import org.apache.hadoop.util.Progressable;

/**
 * s3://bucket/key as the plain file ROOT/bucket/key, in place.
 *
 * <p>ROOT is {@code fs.objectfolder.root}. A file that is being written is kept in {@code fs.objectfolder.scratch}
 * and appears under its key, whole, when it is closed, as an object does; a writer that dies leaves nothing in
 * the bucket. A bucket that is not there is an error and is never made.
 */
public class ObjectFolderFileSystem extends FileSystem {
  static final String ROOT = "fs.objectfolder.root";
  static final String SCRATCH = "fs.objectfolder.scratch";
  private static final long BLOCK_SIZE = 64L * 1024 * 1024;
  private static final int BUFFER_SIZE = 64 * 1024;

  private URI uri;
  private String bucket;
  private java.nio.file.Path bucketFolder;
  private java.nio.file.Path scratch;
  private Path workingDirectory;

  @Override
  public void initialize(URI name, Configuration conf) throws IOException {
    super.initialize(name, conf);
    setConf(conf);
    bucket = name.getAuthority();
    if (bucket == null || bucket.isEmpty()) {
      throw new IOException("There is no bucket in " + name + ". Write s3://bucket/key.");
    }
    String root = conf.get(ROOT);
    if (root == null) {
      throw new IOException(ROOT + " is not set: the folder that holds the buckets of local AWS.");
    }
    uri = URI.create(name.getScheme() + "://" + bucket);
    java.nio.file.Path objects = new File(root).toPath().toAbsolutePath().normalize();
    bucketFolder = objects.resolve(bucket).normalize();
    if (!objects.equals(bucketFolder.getParent())) {
      throw new IOException("Not a bucket name: " + bucket);
    }
    scratch = new File(conf.get(SCRATCH, System.getProperty("java.io.tmpdir"))).toPath();
    workingDirectory = new Path(uri + "/");
  }

  @Override
  public String getScheme() {
    return uri == null ? "s3" : uri.getScheme();
  }

  @Override
  public URI getUri() {
    return uri;
  }

  /** No tokens are ever asked for: by default Hadoop would look the bucket up in DNS. */
  @Override
  public String getCanonicalServiceName() {
    return null;
  }

  @Override
  public long getDefaultBlockSize(Path path) {
    return BLOCK_SIZE;
  }

  @Override
  public Path getWorkingDirectory() {
    return workingDirectory;
  }

  @Override
  public void setWorkingDirectory(Path directory) {
    workingDirectory = makeQualified(directory);
  }

  @Override
  public FSDataInputStream open(Path path, int bufferSize) throws IOException {
    FileStatus status = getFileStatus(path);
    if (status.isDirectory()) {
      throw new FileNotFoundException("Can't open " + path + " because it is a directory");
    }
    try {
      FileChannel channel = FileChannel.open(file(path), StandardOpenOption.READ);
      return new FSDataInputStream(
          new BufferedFSInputStream(
              new ObjectInputStream(channel, statistics), Math.max(bufferSize, BUFFER_SIZE)));
    } catch (NoSuchFileException gone) {
      throw missing(path);
    }
  }

  @Override
  public FSDataOutputStream create(
      Path path,
      FsPermission permission,
      boolean overwrite,
      int bufferSize,
      short replication,
      long blockSize,
      Progressable progress)
      throws IOException {
    java.nio.file.Path target = file(path);
    if (target.equals(bucketFolder) || Files.isDirectory(target)) {
      throw new FileAlreadyExistsException(path + " is a directory");
    }
    if (!overwrite && Files.exists(target)) {
      throw new FileAlreadyExistsException(path + " already exists");
    }
    makeFolder(target.getParent(), path);
    Files.createDirectories(scratch);
    java.nio.file.Path part = scratch.resolve(".object-" + UUID.randomUUID());
    return new FSDataOutputStream(new ObjectOutputStream(part, target, overwrite), statistics);
  }

  @Override
  public FSDataOutputStream createNonRecursive(
      Path path,
      FsPermission permission,
      EnumSet<CreateFlag> flags,
      int bufferSize,
      short replication,
      long blockSize,
      Progressable progress)
      throws IOException {
    return create(
        path, permission, flags.contains(CreateFlag.OVERWRITE), bufferSize, replication, blockSize, progress);
  }

  @Override
  public FSDataOutputStream append(Path path, int bufferSize, Progressable progress) {
    throw new UnsupportedOperationException("S3 objects cannot be appended to: " + path);
  }

  @Override
  public boolean rename(Path source, Path destination) throws IOException {
    java.nio.file.Path from = file(source);
    java.nio.file.Path to = file(destination);
    if (from.equals(bucketFolder)) {
      return false;
    }
    if (!Files.exists(from)) {
      throw missing(source);
    }
    if (from.equals(to)) {
      return true;
    }
    if (Files.isDirectory(to)) {
      to = to.resolve(from.getFileName());
    }
    if (to.startsWith(from) || Files.exists(to)) {
      return false;
    }
    makeFolder(to.getParent(), destination);
    try {
      move(from, to);
    } catch (DirectoryNotEmptyException | java.nio.file.FileAlreadyExistsException taken) {
      return false;
    }
    return true;
  }

  @Override
  public boolean delete(Path path, boolean recursive) throws IOException {
    java.nio.file.Path target = file(path);
    if (Files.isDirectory(target)) {
      String[] names = target.toFile().list();
      if (names != null && names.length > 0 && !recursive) {
        throw new PathIsNotEmptyDirectoryException(path.toString());
      }
      if (target.equals(bucketFolder)) {
        boolean all = true;
        for (String name : names == null ? new String[0] : names) {
          all &= FileUtil.fullyDelete(target.resolve(name).toFile());
        }
        return all; // the bucket itself stays
      }
      return FileUtil.fullyDelete(target.toFile());
    }
    return Files.deleteIfExists(target);
  }

  @Override
  public FileStatus[] listStatus(Path path) throws IOException {
    FileStatus status = getFileStatus(path);
    if (!status.isDirectory()) {
      return new FileStatus[] {status};
    }
    String[] names = file(path).toFile().list();
    if (names == null) {
      throw missing(path);
    }
    Arrays.sort(names);
    FileStatus[] found = new FileStatus[names.length];
    int count = 0;
    for (String name : names) {
      // Not Path(parent, name): that reads a colon in the name as a scheme.
      Path child = new Path(status.getPath(), new Path(null, null, name));
      try {
        found[count] = getFileStatus(child);
        count++;
      } catch (FileNotFoundException gone) {
        // Deleted since the folder was read.
      }
    }
    return Arrays.copyOf(found, count);
  }

  @Override
  public boolean mkdirs(Path path, FsPermission permission) throws IOException {
    java.nio.file.Path target = file(path);
    if (Files.isRegularFile(target)) {
      throw new FileAlreadyExistsException(path + " is a file");
    }
    makeFolder(target, path);
    return true;
  }

  @Override
  public FileStatus getFileStatus(Path path) throws IOException {
    java.nio.file.Path target = file(path);
    try {
      BasicFileAttributes found = Files.readAttributes(target, BasicFileAttributes.class);
      return new FileStatus(
          found.isDirectory() ? 0 : found.size(),
          found.isDirectory(),
          1,
          BLOCK_SIZE,
          found.lastModifiedTime().toMillis(),
          makeQualified(path.toUri().getPath().isEmpty() ? workingDirectory : path));
    } catch (NoSuchFileException | NotDirectoryException gone) {
      throw missing(path);
    } catch (FileSystemException other) {
      if (String.valueOf(other.getReason()).contains("Not a directory")) {
        throw missing(path); // below a file: no such key
      }
      throw other;
    }
  }

  private java.nio.file.Path file(Path path) throws IOException {
    checkPath(path);
    if (!Files.isDirectory(bucketFolder)) {
      throw new IOException("NoSuchBucket: The specified bucket does not exist: " + bucket);
    }
    Path absolute = path.isAbsolute() ? path : new Path(workingDirectory, path);
    String key = absolute.toUri().getPath();
    while (key.startsWith("/")) {
      key = key.substring(1);
    }
    java.nio.file.Path target = bucketFolder.resolve(key).normalize();
    if (!target.startsWith(bucketFolder)) {
      throw new IOException("The key leaves its bucket: " + path);
    }
    return target;
  }

  private void makeFolder(java.nio.file.Path folder, Path asked) throws IOException {
    try {
      Files.createDirectories(folder);
    } catch (java.nio.file.FileAlreadyExistsException | NotDirectoryException file) {
      throw new ParentNotDirectoryException("A parent of " + asked + " is an object: " + folder);
    } catch (FileSystemException other) {
      if (String.valueOf(other.getReason()).contains("Not a directory")) {
        throw new ParentNotDirectoryException("A parent of " + asked + " is an object: " + folder);
      }
      throw other;
    }
  }

  private static void move(java.nio.file.Path from, java.nio.file.Path to) throws IOException {
    try {
      Files.move(from, to, StandardCopyOption.ATOMIC_MOVE);
    } catch (AtomicMoveNotSupportedException otherDevice) {
      Files.move(from, to, StandardCopyOption.REPLACE_EXISTING);
    } catch (NoSuchFileException parentGone) {
      // The server prunes folders that it has emptied; make this one again, once.
      Files.createDirectories(to.getParent());
      Files.move(from, to, StandardCopyOption.ATOMIC_MOVE);
    }
  }

  private static FileNotFoundException missing(Path path) {
    return new FileNotFoundException("No such file or directory: " + path);
  }

  private static final class ObjectInputStream extends FSInputStream {
    private final FileChannel channel;
    private final Statistics statistics;

    ObjectInputStream(FileChannel channel, Statistics statistics) {
      this.channel = channel;
      this.statistics = statistics;
    }

    @Override
    public void seek(long position) throws IOException {
      if (position < 0) {
        throw new EOFException(FSExceptionMessages.NEGATIVE_SEEK);
      }
      if (position > channel.size()) {
        throw new EOFException(FSExceptionMessages.CANNOT_SEEK_PAST_EOF);
      }
      channel.position(position);
    }

    @Override
    public long getPos() throws IOException {
      return channel.position();
    }

    @Override
    public boolean seekToNewSource(long target) {
      return false;
    }

    @Override
    public int available() throws IOException {
      return (int) Math.min(Integer.MAX_VALUE, channel.size() - channel.position());
    }

    @Override
    public int read() throws IOException {
      byte[] one = new byte[1];
      return read(one, 0, 1) < 0 ? -1 : one[0] & 0xff;
    }

    @Override
    public int read(byte[] bytes, int offset, int length) throws IOException {
      return count(channel.read(ByteBuffer.wrap(bytes, offset, length)));
    }

    @Override
    public int read(long position, byte[] bytes, int offset, int length) throws IOException {
      validatePositionedReadArgs(position, bytes, offset, length);
      return count(channel.read(ByteBuffer.wrap(bytes, offset, length), position));
    }

    private int count(int read) {
      if (read > 0) {
        statistics.incrementBytesRead(read);
      }
      return read;
    }

    @Override
    public void close() throws IOException {
      channel.close();
    }
  }

  /** Collects an object in the scratch folder and puts it under its key when it is closed. */
  private static final class ObjectOutputStream extends OutputStream {
    private final java.nio.file.Path part;
    private final java.nio.file.Path target;
    private final boolean overwrite;
    private final OutputStream file;
    private boolean failed;
    private boolean closed;

    ObjectOutputStream(java.nio.file.Path part, java.nio.file.Path target, boolean overwrite)
        throws IOException {
      this.part = part;
      this.target = target;
      this.overwrite = overwrite;
      this.file = new java.io.BufferedOutputStream(Files.newOutputStream(part), BUFFER_SIZE);
    }

    @Override
    public void write(int one) throws IOException {
      try {
        file.write(one);
      } catch (IOException error) {
        failed = true;
        throw error;
      }
    }

    @Override
    public void write(byte[] bytes, int offset, int length) throws IOException {
      try {
        file.write(bytes, offset, length);
      } catch (IOException error) {
        failed = true;
        throw error;
      }
    }

    @Override
    public void flush() throws IOException {
      file.flush();
    }

    @Override
    public void close() throws IOException {
      if (closed) {
        return;
      }
      closed = true;
      try {
        file.close();
        if (failed) {
          throw new IOException("An earlier write failed, so the object was not stored: " + target);
        }
        if (overwrite) {
          move(part, target);
        } else {
          publishNew();
        }
      } finally {
        Files.deleteIfExists(part);
      }
    }

    /** A hard link, unlike a move, fails where another writer was first. */
    private void publishNew() throws IOException {
      try {
        Files.createLink(target, part);
      } catch (java.nio.file.FileAlreadyExistsException taken) {
        throw new FileAlreadyExistsException(target + " already exists");
      } catch (UnsupportedOperationException | FileSystemException noLinks) {
        move(part, target);
      }
    }
  }
}
